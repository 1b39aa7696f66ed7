"""From a corpus version to token shards: the tokenizer is trained on its training part, then every bucket is packed.

tokens/<corpus digest>-<tokenizer and split>/   manifest.json, tokenizer.json, <bucket>.<split>.bin and .parquet
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.atomic import link_file, new_directory, write_json
from tasks.document import ShardReport
from tasks.manifest import fingerprint, read_manifest
from tasks.pack import MANIFEST, BucketReport, SplitReport, tokenize_bucket, write_token_manifest
from tasks.ports import ShardMap
from tasks.recipes.pretraining import PretrainRecipe
from tasks.stages import Progress, Stage, no_progress, run_stage
from tasks.store import Store
from tasks.tokenizer import (
    HeldOutSplit,
    TokenizerConfig,
    corpus_cluster_ids,
    corpus_files,
    save_tokenizer,
    split_documents,
    train_tokenizer,
    training_texts,
)

TOKENIZER_FILE = "tokenizer.json"
_REPORT_FILE = "bucket.json"


def _tokenizer_shard(corpus: Path, directory: Path, *, split: HeldOutSplit, config: TokenizerConfig) -> ShardReport:
    tokenizer = train_tokenizer(training_texts(corpus, split, config), config)
    save_tokenizer(tokenizer, directory / TOKENIZER_FILE)
    return ShardReport(0, 0)


def _tokens_shard(documents_file: Path, directory: Path, *, tokenizer_file: Path, split: HeldOutSplit) -> ShardReport:
    report = tokenize_bucket(documents_file, tokenizer_file, directory, split=split)
    write_json(directory / _REPORT_FILE, asdict(report))
    num_documents = sum(part.num_documents for part in report.splits.values())
    return ShardReport(num_documents, num_documents)


def _bucket_report(file: Path) -> BucketReport:
    values = json.loads(file.read_bytes())
    return BucketReport(values["bucket"], {name: SplitReport(**part) for name, part in values["splits"].items()})


def tokenize(
    store: Store, corpus: Path, recipe: PretrainRecipe, shard_map: ShardMap, progress: Progress = no_progress
) -> Path:
    """The token shards of a corpus version for a recipe; made once, then reused.

    Raises ValueError where `corpus` is no complete version or holds too few documents to split.
    """
    manifest = read_manifest(corpus)
    if manifest is None:
        raise ValueError(f"{corpus} holds no manifest.json: it is no corpus version, or an unfinished one")
    digest: str = manifest["digest"]
    split = split_documents(corpus_cluster_ids(corpus), recipe.held_out_fraction)
    identity: Mapping[str, Any] = {"corpus": digest, "tokenizer": recipe.tokenizer, "split": split}
    trained = run_stage(
        Stage("tokenizer", identity, ("tokenizers",)),
        store.work,
        shard_map,
        functools.partial(_tokenizer_shard, split=split, config=recipe.tokenizer),
        [corpus],
        progress=progress,
    )
    tokenizer_file = trained.shards[0] / TOKENIZER_FILE
    packed = run_stage(
        Stage("tokens", {"after": trained.fingerprint}, ("tokenizers", "numpy")),
        store.work,
        shard_map,
        functools.partial(_tokens_shard, tokenizer_file=tokenizer_file, split=split),
        corpus_files(corpus),
        progress=progress,
    )
    tokens = store.tokens / f"{digest[:16]}-{fingerprint({'tokens': packed.fingerprint})[:16]}"
    if not (tokens / MANIFEST).is_file():
        with new_directory(tokens) as directory:
            for shard in packed.shards:
                for file in shard.iterdir():
                    if file.suffix in {".bin", ".parquet"}:
                        link_file(file, directory / file.name)
            link_file(tokenizer_file, directory / TOKENIZER_FILE)
            write_token_manifest(
                directory,
                [_bucket_report(shard / _REPORT_FILE) for shard in packed.shards],
                tokenizer_file=directory / TOKENIZER_FILE,
                corpus_digest=digest,
                split=split,
            )
    return tokens
