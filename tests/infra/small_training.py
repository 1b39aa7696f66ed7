"""A small corpus as token shards, and a job that trains on it: for what is tested with real workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.mixture import MixtureSource
from tasks.pack import tokenize_bucket, write_token_manifest
from tasks.recipes.pretraining import PretrainRecipe
from tasks.tokenizer import HeldOutSplit, TokenizerConfig, save_tokenizer, train_tokenizer
from tasks.training import TrainJob
from tests.data.prose import prose

SEQ_LEN = 64
_TOKENIZER = TokenizerConfig(vocab_size=300)


def write_tokens(folder: Path, num_documents: int = 80) -> Path:
    """Tokenise seeded prose into `folder`/tokens, a tenth of it held out; returns `folder`."""
    ids = [f"{number:03d}" for number in range(num_documents)]
    texts = [prose(number) for number in range(num_documents)]
    save_tokenizer(train_tokenizer(texts, _TOKENIZER), folder / "tokenizer.json")
    columns = dict.fromkeys(("document_id", "cluster_id", "url", "source"), ids) | {"text": texts}
    pq.write_table(pa.table(columns), folder / "bucket-000.parquet")
    split = HeldOutSplit(fraction=0.1)
    report = tokenize_bucket(folder / "bucket-000.parquet", folder / "tokenizer.json", folder / "tokens", split=split)
    write_token_manifest(
        folder / "tokens", [report], tokenizer_file=folder / "tokenizer.json", corpus_digest="c0ffee", split=split
    )
    return folder


def job_for(folder: Path, run_dir: Path, *, num_steps: int, sequences: int, **recipe: Any) -> TrainJob:
    """`num_steps` steps of so many sequences on what `write_tokens` wrote; by default without a checkpoint but the
    last."""
    settings = {"model": "smoke", "checkpoint_every_steps": 1000, "evaluate_every_steps": 1000, "precision": "fp32"}
    return TrainJob(
        corpora=(MixtureSource(corpus="prose", tokens_dir=folder / "tokens"),),
        tokenizer_file=folder / "tokenizer.json",
        run_dir=run_dir,
        recipe=PretrainRecipe(
            tokenizer=_TOKENIZER,
            held_out_fraction=0.1,
            seq_len=SEQ_LEN,
            total_tokens=num_steps * SEQ_LEN * sequences,
            global_batch_tokens=SEQ_LEN * sequences,
            microbatch_sequences=4,
            **(settings | recipe),
        ),
        resume=True,
        device="cpu",
    )
