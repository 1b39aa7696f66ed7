"""One tokenizer for both recipes, and each recipe's token shards, split by page.

The tokenizer is trained on the training text of both corpora, so that it favours neither. A page that both keep is read
twice, which is what it weighs in the two trainings together.

The shards are as pretraining makes them (`tasks.pack`), but for one thing: what is held out is decided by page
(`tasks.ablation.pages`), because the clusters of near-duplicates, by which a corpus is split else, are its own.
In these shards' index the cluster of a document is its page. They lie with the others in the store, under a name that
begins with their corpus' digest: what removes token shards of a corpus finds them.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.ablation.held_out import page_key
from tasks.atomic import link_file, new_directory, write_json
from tasks.document import ShardReport
from tasks.manifest import fingerprint
from tasks.pack import LIBRARIES, MANIFEST, BucketReport, packing_identity, tokenize_bucket, write_token_manifest
from tasks.packed_buckets import PackedBucket
from tasks.ports import ShardMap
from tasks.stages import Progress, Stage, no_progress, run_stage
from tasks.store import Store
from tasks.tokenizer import (
    TOKENIZER_FILE,
    HeldOutSplit,
    TokenizerConfig,
    corpus_files,
    save_tokenizer,
    tokenizer_hash,
    train_tokenizer,
    training_texts,
)

_COLUMNS = ["document_id", "url", "source", "text"]
_REPORT_FILE = "bucket.json"
_DIGITS = 16  # of a digest, in the names of folders


def shared_tokenizer(
    store: Store,
    corpora: Sequence[tuple[Path, str]],
    config: TokenizerConfig,
    held_out_fraction: float,
    shard_map: ShardMap,
    progress: Progress = no_progress,
) -> Path:
    """The tokenizer of both recipes' training texts, as a file; `corpora` are the versions with their digests.

    Raises ValueError where there is no text.
    """
    stage = Stage(
        "ablation_tokenizer",
        {"tokenizer": config, "held_out_fraction": held_out_fraction},
        ("tokenizers",),
        modules=("tasks.ablation.tokens",),
        after=fingerprint({"corpora": sorted(digest for _, digest in corpora)}),
    )
    training = _Training(tuple(folder for folder, _ in corpora), config, HeldOutSplit(fraction=held_out_fraction))
    output = run_stage(stage, store.work, shard_map, _train, [training], progress=progress)
    return output.shards[0] / TOKENIZER_FILE


@dataclass(frozen=True)
class _Training:
    corpora: tuple[Path, ...]
    config: TokenizerConfig
    split: HeldOutSplit


def _train(training: _Training, directory: Path) -> ShardReport:
    """The only shard of its stage: TOKENIZER_FILE."""
    both = directory / "both"
    (both / "documents").mkdir(parents=True)
    for number, corpus in enumerate(training.corpora):
        for file in corpus_files(corpus):
            pq.write_table(_by_page(file), both / "documents" / f"{number}-{file.name}")
    texts = training_texts(both, training.split, training.config)
    save_tokenizer(train_tokenizer(texts, training.config), directory / TOKENIZER_FILE)
    shutil.rmtree(both)
    return ShardReport(0, 0)


def _by_page(documents_file: Path) -> pa.Table:
    """A bucket of documents in which each is in the cluster of its page."""
    table = pq.read_table(documents_file, columns=_COLUMNS)
    keys = zip(table["url"].to_pylist(), table["document_id"].to_pylist(), strict=True)
    return table.append_column("cluster_id", pa.array([page_key(url, identity) for url, identity in keys], pa.string()))


def page_shards(
    store: Store,
    corpus: tuple[Path, str],
    tokenizer_file: Path,
    held_out_fraction: float,
    shard_map: ShardMap,
    progress: Progress = no_progress,
) -> Path:
    """The token shards of one recipe's corpus, given with its digest: a folder, made once."""
    folder, digest = corpus
    split = HeldOutSplit(fraction=held_out_fraction)
    packing = packing_identity(tokenizer_hash(tokenizer_file))
    made_by = fingerprint({"packing": packing, "split": split, "by": "page"})
    tokens = store.tokens / f"{digest[:_DIGITS]}-{made_by[:_DIGITS]}"
    if (tokens / MANIFEST).is_file():
        return tokens
    stage = Stage(
        "ablation_tokens",
        {"packing": packing, "split": split},
        LIBRARIES,
        modules=("tasks.ablation.tokens",),
        after=fingerprint({"corpus": digest}),
    )
    pack = functools.partial(_pack, tokenizer_file=tokenizer_file, split=split)
    output = run_stage(stage, store.work, shard_map, pack, corpus_files(folder), progress=progress)
    buckets = [
        PackedBucket(shard, BucketReport.of(json.loads((shard / _REPORT_FILE).read_bytes()))) for shard in output.shards
    ]
    with new_directory(tokens) as directory:
        for bucket in buckets:
            bucket.link_into(directory)
        link_file(tokenizer_file, directory / TOKENIZER_FILE)
        write_token_manifest(
            directory,
            [bucket.report for bucket in buckets],
            tokenizer_file=directory / TOKENIZER_FILE,
            corpus_digest=digest,
            split=split,
        )
    return tokens


def _pack(documents_file: Path, directory: Path, *, tokenizer_file: Path, split: HeldOutSplit) -> ShardReport:
    by_page = directory / documents_file.name  # a bucket is called as its file
    pq.write_table(_by_page(documents_file), by_page)
    report = tokenize_bucket(by_page, tokenizer_file, directory, split=split)
    by_page.unlink()
    write_json(directory / _REPORT_FILE, asdict(report))
    num_documents = sum(part.num_documents for part in report.splits.values())
    return ShardReport(num_documents, num_documents)
