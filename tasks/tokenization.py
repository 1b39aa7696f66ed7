"""From a corpus version to token shards: with the corpus' tokenizer, each bucket is packed once.

tokens/<corpus digest>-<packing and split>/   manifest.json, tokenizer.json, <bucket>.<split>.bin and .parquet

A bucket that would come out as it did for another version, for which its texts need not be read again, is linked from
that version's shards.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.atomic import link_file, new_directory
from tasks.manifest import fingerprint, read_manifest
from tasks.pack import LIBRARIES, MANIFEST, TokenShards, packing_identity, write_token_manifest
from tasks.packed_buckets import BucketToPack, PackedBucket, pack_shard, packed_buckets, read_shard
from tasks.ports import ShardMap
from tasks.recipes.pretraining import PretrainRecipe
from tasks.stages import Progress, Stage, no_progress, run_stage
from tasks.store import Store
from tasks.tokenizer import (
    TOKENIZER_FILE,
    HeldOutSplit,
    bucket_split,
    corpus_cluster_ids,
    corpus_files,
    split_documents,
)
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
    tokenizer: TrainedTokenizer | None = None,
) -> TokenizedCorpus:
    """The token shards of a corpus version for a recipe; made once, by any machine of the store's remote, then reused.

    `choice` is the generation of the corpus' own tokenizer, None the latest; or `tokenizer` is another corpus', with
    which this one shall be mixed. Raises ValueError where `corpus` is no complete version, is damaged or holds too few
    documents to split.
    """
    assert choice is None or tokenizer is None
    manifest = read_manifest(corpus)
    if manifest is None:
        raise ValueError(f"{corpus} holds no manifest.json: it is no corpus version, or an unfinished one")
    split = split_documents(corpus_cluster_ids(corpus), recipe.held_out_fraction)
    if tokenizer is None:
        line = tokenizer_line(store, manifest, recipe)
        tokenizer = line.obtain(choice or line.choose(manifest["digest"]), corpus, manifest, split, shard_map, progress)
    packing = packing_identity(tokenizer.sha256)
    name = f"{manifest['digest'][:_DIGITS]}-{fingerprint({'packing': packing, 'split': split})[:_DIGITS]}"
    tokens = store.tokens / name
    num_linked = num_packed = 0
    if store.fetch(tokens):
        progress(STAGE, 1, 1, note="made before")
    else:
        same, others = _found_buckets(store, _buckets(corpus, manifest, split), tokenizer, split)
        packed = _packed(store, others, len(same), tokenizer, shard_map, progress)
        num_packed = len(packed) - sum(was_linked for _, was_linked in packed)
        num_linked = len(same) + len(packed) - num_packed
        buckets = [*same, *(bucket for bucket, _ in packed)]
        _publish(buckets, tokens, manifest["digest"], tokenizer, split)
        num_documents = sum(part.num_documents for each, _ in packed for part in each.report.splits.values())
        note = f"{num_linked} buckets linked, {num_packed} packed" if num_linked else ""
        progress(STAGE, len(buckets), len(buckets), records=num_documents, note=note)
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


def _found_buckets(
    store: Store, wanted: Sequence[BucketToPack], tokenizer: TrainedTokenizer, split: HeldOutSplit
) -> tuple[list[PackedBucket], list[BucketToPack]]:
    """Of the wanted buckets those that lie in complete folders of this store, packed from the very same files; and the
    others, each with what was packed from other files and may still hold the same."""
    found: dict[tuple[str, tuple[str, ...]], list[PackedBucket]] = defaultdict(list)
    for manifest in sorted(store.tokens.glob(f"[!.]*/{MANIFEST}")):
        for packed in packed_buckets(manifest.parent, tokenizer.sha256, split.fraction):
            found[packed.report.bucket, packed.report.exceptions].append(packed)
    same: list[PackedBucket] = []
    others: list[BucketToPack] = []
    for bucket in wanted:
        candidates = found[bucket.name, tuple(sorted(bucket.split.exceptions))]
        equal = [packed for packed in candidates if packed.report.documents_sha256 == bucket.documents_sha256]
        if equal:
            same.append(equal[0])
        else:
            others.append(replace(bucket, others=tuple(candidates)))
    return same, others


def _packed(
    store: Store,
    buckets: Sequence[BucketToPack],
    num_linked: int,
    tokenizer: TrainedTokenizer,
    shard_map: ShardMap,
    progress: Progress,
) -> list[tuple[PackedBucket, bool]]:
    """Pack these buckets, or link them after a look at their rows (then True); `num_linked` others are done."""

    def of_all(stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
        if done < total:  # the end is told with how many were linked
            progress(stage, num_linked + done, num_linked + total, records=records, note=note)

    if not buckets:
        return []
    inputs = [bucket.identity for bucket in buckets]
    stage = Stage(
        STAGE,
        {"packing": packing_identity(tokenizer.sha256)},
        LIBRARIES,
        modules=("tasks.packed_buckets",),
        after=fingerprint({"buckets": inputs}),
    )
    function = functools.partial(pack_shard, tokenizer_file=tokenizer.file)
    output = run_stage(stage, store.work, shard_map, function, buckets, inputs=inputs, progress=of_all)
    return [read_shard(shard) for shard in output.shards]


def _publish(
    buckets: Sequence[PackedBucket], tokens: Path, corpus_digest: str, tokenizer: TrainedTokenizer, split: HeldOutSplit
) -> None:
    """Make the folder `tokens` of them: all of it appears at once."""
    with new_directory(tokens) as directory:
        for bucket in buckets:
            bucket.link_into(directory)
        link_file(tokenizer.file, directory / TOKENIZER_FILE)
        write_token_manifest(
            directory,
            [bucket.report for bucket in buckets],
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
    for reference in (f"{name}@{number}" for name in store.names() for number in store.versions(name)):
        purges = store.corpus_manifest(reference).get("purged", ())
        if audit := next((purge["audit"] for purge in purges if purge["digest_before"] == corpus_digest), ""):
            raise ValueError(
                f"the token shards were removed when documents were purged from {reference} (record {audit}); train a"
                f" model on what it holds now: tokenmill pretrain --corpus {reference}"
            )
    raise ValueError(
        f"there are no token shards with the digest {tokens_digest[:_DIGITS]} of the corpus with the digest"
        f" {corpus_digest[:_DIGITS]} in {store.places}; run `tokenmill pretrain` on that corpus again to make them"
    )
