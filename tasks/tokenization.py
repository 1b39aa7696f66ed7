"""From a corpus version to token shards: the tokenizer is trained on its training part, then every bucket is packed.

tokens/<corpus digest>-<tokenizer and split>/   manifest.json, tokenizer.json, <bucket>.<split>.bin and .parquet
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.atomic import link_file, new_directory, write_json
from tasks.document import ShardReport
from tasks.manifest import fingerprint, read_manifest
from tasks.pack import MANIFEST, BucketReport, SplitReport, TokenShards, tokenize_bucket, write_token_manifest
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
_DIGITS = 16  # of a digest, in the names of folders


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


@dataclass(frozen=True)
class _Tokenization:
    """What is to be made, resolved: stages and folder are known before anything runs."""

    corpus: Path
    corpus_digest: str
    split: HeldOutSplit
    tokenizer: TokenizerConfig

    @property
    def training(self) -> Stage:
        identity = {"corpus": self.corpus_digest, "tokenizer": self.tokenizer, "split": self.split}
        return Stage("tokenizer", identity, ("tokenizers",))

    @property
    def packing(self) -> Stage:
        return Stage("tokens", {}, ("tokenizers", "numpy"), after=self.training.fingerprint)

    @property
    def folder(self) -> str:
        return f"{self.corpus_digest[:_DIGITS]}-{fingerprint({'tokens': self.packing.fingerprint})[:_DIGITS]}"


def tokenize(
    store: Store, corpus: Path, recipe: PretrainRecipe, shard_map: ShardMap, progress: Progress = no_progress
) -> Path:
    """The token shards of a corpus version for a recipe; made once, by any machine of the store's remote, then reused.

    Raises ValueError where `corpus` is no complete version or holds too few documents to split.
    """
    manifest = read_manifest(corpus)
    if manifest is None:
        raise ValueError(f"{corpus} holds no manifest.json: it is no corpus version, or an unfinished one")
    split = split_documents(corpus_cluster_ids(corpus), recipe.held_out_fraction)
    plan = _Tokenization(corpus, manifest["digest"], split, recipe.tokenizer)
    tokens = store.tokens / plan.folder
    if store.fetch(tokens):
        for stage in (plan.training, plan.packing):
            progress(stage.name, 1, 1, note="made before")
    else:
        _make(plan, store.work, tokens, shard_map, progress)
    store.upload(tokens)
    return tokens


def _make(plan: _Tokenization, work: Path, tokens: Path, shard_map: ShardMap, progress: Progress) -> None:
    """Run both stages and publish their output as the folder `tokens`."""
    trained = run_stage(
        plan.training,
        work,
        shard_map,
        functools.partial(_tokenizer_shard, split=plan.split, config=plan.tokenizer),
        [plan.corpus],
        progress=progress,
    )
    tokenizer_file = trained.shards[0] / TOKENIZER_FILE
    packed = run_stage(
        plan.packing,
        work,
        shard_map,
        functools.partial(_tokens_shard, tokenizer_file=tokenizer_file, split=plan.split),
        corpus_files(plan.corpus),
        progress=progress,
    )
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
            corpus_digest=plan.corpus_digest,
            split=plan.split,
        )


def find_tokens(store: Store, *, corpus_digest: str, tokens_digest: str) -> Path:
    """The token shards with this digest, which a checkpoint names; fetched where only the store's remote has them.

    Raises ValueError where they are nowhere.
    """
    prefix = f"{corpus_digest[:_DIGITS]}-"
    for folder in sorted(store.tokens.glob(f"{prefix}*")):
        if (folder / MANIFEST).is_file() and TokenShards(folder, "held_out").digest == tokens_digest:
            return folder
    for name in store.remote_folders(store.tokens):
        manifest = store.remote_manifest(store.tokens / name) if name.startswith(prefix) else None
        if manifest is not None and json.loads(manifest)["digest"] == tokens_digest:
            store.fetch(store.tokens / name)
            return store.tokens / name
    raise ValueError(
        f"there are no token shards with the digest {tokens_digest[:_DIGITS]} of the corpus with the digest"
        f" {corpus_digest[:_DIGITS]} in {store.places}; run `tokenmill pretrain` on that corpus again to make them"
    )
