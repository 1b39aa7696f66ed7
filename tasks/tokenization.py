"""From a corpus version to token shards: with the corpus' tokenizer, each bucket is packed once.

tokens/<corpus digest>-<packing and split>/   manifest.json, tokenizer.json, <bucket>.<split>.bin and .parquet

A bucket whose documents some earlier version had, byte for byte, is linked from that version's shards.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.atomic import link_file, new_directory
from tasks.manifest import fingerprint, read_manifest
from tasks.pack import LIBRARIES, MANIFEST, BucketReport, TokenShards, packing_identity, write_token_manifest
from tasks.packed_buckets import BUCKET_FILE, BucketToPack, bucket_files, pack_shard, packed_buckets
from tasks.ports import ShardMap
from tasks.recipes.pretraining import PretrainRecipe
from tasks.stages import Progress, Stage, no_progress, run_stage
from tasks.store import Store
from tasks.tokenizer import TOKENIZER_FILE as TOKENIZER_FILE
from tasks.tokenizer import HeldOutSplit, bucket_split, corpus_cluster_ids, corpus_files, split_documents
from tasks.tokenizer_generations import TokenizerChoice, TokenizerLine, TrainedTokenizer

STAGE = "tokens"
_DIGITS = 16  # of a digest, in the names of folders


@dataclass(frozen=True)
class TokenizedCorpus:
    """The token shards of a corpus version, and how they came about."""

    folder: Path
    tokenizer: TrainedTokenizer
    num_linked: int  # buckets taken over from the shards of another version
    num_packed: int  # both are 0 where the folder was there


@dataclass(frozen=True)
class _FoundBucket:
    """A bucket in the folder of another version."""

    folder: Path
    report: BucketReport


def tokenizer_line(store: Store, manifest: Mapping[str, Any], recipe: PretrainRecipe) -> TokenizerLine:
    """The tokenizers for a recipe of the corpus with this manifest."""
    return TokenizerLine(store, manifest["name"], recipe.tokenizer, recipe.held_out_fraction)


def tokenize(
    store: Store,
    corpus: Path,
    recipe: PretrainRecipe,
    shard_map: ShardMap,
    progress: Progress = no_progress,
    *,
    choice: TokenizerChoice | None = None,
) -> TokenizedCorpus:
    """The token shards of a corpus version for a recipe; made once, by any machine of the store's remote, then reused.

    `choice` is the generation of the tokenizer, None the latest. Raises ValueError where `corpus` is no complete
    version, is damaged or holds too few documents to split.
    """
    manifest = read_manifest(corpus)
    if manifest is None:
        raise ValueError(f"{corpus} holds no manifest.json: it is no corpus version, or an unfinished one")
    line = tokenizer_line(store, manifest, recipe)
    split = split_documents(corpus_cluster_ids(corpus), recipe.held_out_fraction)
    tokenizer = line.obtain(choice or line.choose(manifest["digest"]), corpus, manifest, split, shard_map, progress)
    packing = packing_identity(tokenizer.sha256)
    name = f"{manifest['digest'][:_DIGITS]}-{fingerprint({'packing': packing, 'split': split})[:_DIGITS]}"
    tokens = store.tokens / name
    num_linked = num_packed = 0
    if store.fetch(tokens):
        progress(STAGE, 1, 1, note="made before")
    else:
        wanted = _buckets(corpus, manifest, split)
        found = _found_buckets(store, wanted, tokenizer, split)
        _make(store, tokens, manifest["digest"], tokenizer, split, wanted, found, shard_map, progress)
        num_linked, num_packed = len(found), len(wanted) - len(found)
        progress(STAGE, len(wanted), len(wanted), note=f"{num_linked} buckets linked, {num_packed} packed")
    store.upload(tokens)
    return TokenizedCorpus(tokens, tokenizer, num_linked, num_packed)


def _buckets(corpus: Path, manifest: Mapping[str, Any], split: HeldOutSplit) -> list[BucketToPack]:
    sha256 = {part["path"]: part["sha256"] for part in manifest["parts"]}
    files = corpus_files(corpus)
    strange = [file for file in files if file.relative_to(corpus).as_posix() not in sha256]
    if strange:
        raise ValueError(f"{strange[0]} is no part of its version, says {MANIFEST}: remove that file")
    return [
        BucketToPack(file, sha256[file.relative_to(corpus).as_posix()], bucket_split(file, split)) for file in files
    ]


def _key(bucket: str, documents_sha256: str, exceptions: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    """What two buckets agree in that come out the same under one packing and one held-out fraction."""
    return bucket, documents_sha256, tuple(sorted(exceptions))


def _found_buckets(
    store: Store, wanted: Sequence[BucketToPack], tokenizer: TrainedTokenizer, split: HeldOutSplit
) -> dict[str, _FoundBucket]:
    """Which of the wanted buckets lie, just as they would be packed, in complete folders of this store; by name."""
    names = {_key(each.name, each.documents_sha256, each.split.exceptions): each.name for each in wanted}
    found: dict[str, _FoundBucket] = {}
    for folder in sorted(store.tokens.glob(f"[!.]*/{MANIFEST}")):
        for report in packed_buckets(folder.parent, tokenizer.sha256, split.fraction):
            name = names.get(_key(report.bucket, report.documents_sha256, report.exceptions))
            if name is not None:
                found.setdefault(name, _FoundBucket(folder.parent, report))
    return found


def _make(
    store: Store,
    tokens: Path,
    corpus_digest: str,
    tokenizer: TrainedTokenizer,
    split: HeldOutSplit,
    wanted: Sequence[BucketToPack],
    found: Mapping[str, _FoundBucket],
    shard_map: ShardMap,
    progress: Progress,
) -> None:
    """Pack what was not found, and publish all buckets as the folder `tokens`."""
    sources = dict(found)
    missing = [bucket for bucket in wanted if bucket.name not in found]
    if missing:
        inputs = [bucket.identity for bucket in missing]
        stage = Stage(
            STAGE,
            {"packing": packing_identity(tokenizer.sha256)},
            LIBRARIES,
            modules=("tasks.packed_buckets",),
            after=fingerprint({"buckets": inputs}),
        )
        function = functools.partial(pack_shard, tokenizer_file=tokenizer.file)
        packed = run_stage(stage, store.work, shard_map, function, missing, inputs=inputs, progress=progress)
        for shard in packed.shards:
            report = BucketReport.of(json.loads((shard / BUCKET_FILE).read_bytes()))
            sources[report.bucket] = _FoundBucket(shard, report)
    with new_directory(tokens) as directory:
        for source in sources.values():
            for name in bucket_files(source.report.bucket):
                link_file(source.folder / name, directory / name)
        link_file(tokenizer.file, directory / TOKENIZER_FILE)
        write_token_manifest(
            directory,
            [source.report for source in sources.values()],
            tokenizer_file=directory / TOKENIZER_FILE,
            corpus_digest=corpus_digest,
            split=split,
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
