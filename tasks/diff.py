"""What changed from one corpus version to another: two versions of one corpus, or one each of two recipes.

    documents of the later = those of the earlier + added + revived - superseded - removed - taken down

Every document is one of these:

added        in no ledger row of the earlier version
revived      removed there, kept now
changed      the same document with another text; or its canonical URL left with one document and came with another
superseded   removed now as a duplicate, of a survivor that is named
removed      removed now by a rule of screening, or no longer in the input
taken_down   removed now by a takedown; its text is shown nowhere
unchanged    all others
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.diff_moves import (
    KINDS,
    Kind,
    Move,
    SortedMoves,
    Version,
    common_buckets,
    is_unchanged,
    moves_of_bucket,
    with_changed_urls,
)
from tasks.diff_samples import DiffSample, with_texts
from tasks.funnel import funnel_rows
from tasks.pack import SPLITS
from tasks.stages import Progress, no_progress
from tasks.store import Store
from tasks.version_facts import BYTES_PER_TOKEN

NUM_DOMAINS = 20


@dataclass(frozen=True)
class VersionFacts:
    """One of the two versions, from its manifest."""

    reference: str  # name@version
    digest: str
    created: str
    recipe: str
    documents: int
    records: int
    estimated_tokens: int


@dataclass(frozen=True)
class KindDiff:
    """All documents of one kind."""

    documents: int
    bytes_out: int  # of their texts in the earlier version, as UTF-8
    bytes_in: int  # in the later version
    reasons: tuple[tuple[str, str, int], ...]  # stage, reason, documents; the most first
    domains: tuple[tuple[str, int], ...]  # registered domains with the most documents
    other_domains: tuple[int, int]  # how many domains more, and their documents
    languages: tuple[tuple[str, int], ...]
    samples: tuple[DiffSample, ...]  # those with the lowest ids, which are hashes

    @property
    def estimated_tokens_in(self) -> int:
        return self.bytes_in // BYTES_PER_TOKEN

    @property
    def estimated_tokens_out(self) -> int:
        return self.bytes_out // BYTES_PER_TOKEN


@dataclass(frozen=True)
class ExactTokens:
    """Both versions' tokens by one tokenizer, as their token shards have them."""

    tokenizer_sha256: str
    split: str
    before: int
    after: int


@dataclass(frozen=True)
class VersionDiff:
    """What changed from `before` to `after`."""

    before: VersionFacts
    after: VersionFacts
    kinds: Mapping[Kind, KindDiff]
    unchanged: int
    funnel: tuple[tuple[str, str, int, int], ...]  # stage, reason, records removed in the earlier and in the later
    exact_tokens: tuple[ExactTokens, ...]
    num_buckets: int
    num_buckets_read: int  # the others hold the very same documents in both

    def counts(self) -> dict[str, int]:
        """Documents of every kind, `unchanged` among them."""
        return {kind: part.documents for kind, part in self.kinds.items()} | {"unchanged": self.unchanged}

    @property
    def estimated_tokens_added(self) -> int:
        """Of what is added, revived, or stands now where something was changed: 4 bytes each."""
        return sum(part.bytes_in for part in self.kinds.values()) // BYTES_PER_TOKEN

    @property
    def estimated_tokens_removed(self) -> int:
        return sum(part.bytes_out for part in self.kinds.values()) // BYTES_PER_TOKEN

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        estimated = {"added": self.estimated_tokens_added, "removed": self.estimated_tokens_removed}
        return {**asdict(self), "counts": self.counts(), "estimated_tokens": estimated}


def two_versions(store: Store, before: str, after: str) -> tuple[Path, Path]:
    """Folders of two versions, each `name` (its latest) or `name@version`; without `before` the one before `after`.

    Fetched from the store's remote where they are not here. ValueError where one is missing, or both are the same.
    """
    later = store.version_folder(after)
    if before:
        earlier = store.version_folder(before)
        if earlier == later:
            raise ValueError(f"{before} and {after} are one version, {_named(later)}: name two")
    else:
        name, number = later.parent.name, int(later.name)
        older = [version for version in store.versions(name) if version < number]
        if not older:
            raise ValueError(f"there is no version before {_named(later)}: name the one to compare it with")
        earlier = store.version_folder(f"{name}@{older[-1]}")
    return store.corpus(_named(earlier)), store.corpus(_named(later))


def _named(folder: Path) -> str:
    return f"{folder.parent.name}@{folder.name}"


def compare(
    before: Path, after: Path, *, samples: int = 5, tokens: Path | None = None, progress: Progress = no_progress
) -> VersionDiff:
    """What changed between two complete version folders; `samples` documents of each kind.

    `tokens` is the folder of all token shards, for exact numbers. One bucket's ids and what was sorted of the moves
    (`SortedMoves`) are in memory, and texts a few row groups at a time; parts that are equal are not read.
    ValueError where a folder holds no complete version.
    """
    old, new = Version.open(before), Version.open(after)
    tally = _Tally(samples)
    unchanged = num_read = 0
    each = common_buckets(old, new)
    with SortedMoves() as moves:
        for done, bucket in enumerate(each):
            progress("diff", done, len(each))
            if is_unchanged(old, new, bucket):
                unchanged += new.part("documents", bucket)["rows"]
                continue
            num_same, found = moves_of_bucket(old, new, bucket)
            moves.add(found)
            unchanged += num_same
            num_read += 1
        for move in with_changed_urls(moves):
            tally.count(move)
    kinds = {kind: tally.of(kind, old, new) for kind in KINDS}
    diff = VersionDiff(
        before=_facts(old),
        after=_facts(new),
        kinds=kinds,
        unchanged=unchanged,
        funnel=_funnel(old, new),
        exact_tokens=_exact_tokens(old, new, tokens) if tokens else (),
        num_buckets=len(each),
        num_buckets_read=num_read,
    )
    progress("diff", len(each), len(each))
    return diff


class _Tally:
    """Counts of moves, which come domain by domain."""

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._documents: Counter[Kind] = Counter()
        self._bytes: Counter[tuple[Kind, str]] = Counter()
        self._reasons: Counter[tuple[Kind, str, str]] = Counter()
        self._languages: Counter[tuple[Kind, str]] = Counter()
        self._domain, self._in_domain = "", Counter[Kind]()
        self._domains: dict[Kind, list[tuple[int, str]]] = {kind: [] for kind in KINDS}
        self._num_domains: Counter[Kind] = Counter()
        self._samples: dict[Kind, list[Move]] = {kind: [] for kind in KINDS}

    def count(self, move: Move) -> None:
        kind = move.kind
        if move.domain != self._domain:
            self._end_domain()
            self._domain = move.domain
        self._in_domain[kind] += 1
        self._documents[kind] += 1
        self._bytes[kind, "out"] += move.bytes_out
        self._bytes[kind, "in"] += move.bytes_in
        self._reasons[kind, move.stage, move.reason] += 1
        self._languages[kind, move.language] += 1
        self._samples[kind].append(move)
        if len(self._samples[kind]) >= 2 * self._num_samples + 64:
            self._samples[kind] = self._first(kind)

    def _first(self, kind: Kind) -> list[Move]:
        return heapq.nsmallest(self._num_samples, self._samples[kind], key=lambda move: move.document_id)

    def _end_domain(self) -> None:
        for kind, count in self._in_domain.items():
            self._num_domains[kind] += 1
            self._domains[kind] = sorted([*self._domains[kind], (-count, self._domain)])[:NUM_DOMAINS]
        self._in_domain = Counter()

    def of(self, kind: Kind, before: Version, after: Version) -> KindDiff:
        """All that was counted of one kind. Call it when the last move was counted."""
        self._end_domain()
        domains = tuple((domain, -count) for count, domain in self._domains[kind])
        documents = self._documents[kind]
        return KindDiff(
            documents=documents,
            bytes_out=self._bytes[kind, "out"],
            bytes_in=self._bytes[kind, "in"],
            reasons=_most_first((*why, n) for (each, *why), n in self._reasons.items() if each == kind),
            domains=domains,
            other_domains=(self._num_domains[kind] - len(domains), documents - sum(count for _, count in domains)),
            languages=_most_first((language, n) for (each, language), n in self._languages.items() if each == kind),
            samples=with_texts(self._first(kind), before, after),
        )


def _most_first(rows: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(sorted(rows, key=lambda row: (-row[-1], row[:-1])))


def _facts(version: Version) -> VersionFacts:
    manifest = version.manifest
    return VersionFacts(
        reference=version.reference,
        digest=manifest["digest"],
        created=manifest["created"],
        recipe=manifest["recipe"]["name"],
        documents=manifest["documents_kept"],
        records=manifest["records_in"],
        estimated_tokens=manifest["estimated_tokens"],
    )


def _funnel(before: Version, after: Version) -> tuple[tuple[str, str, int, int], ...]:
    """Records that each rule removed in either version, in the order of the work."""
    then, now = (
        {(stage, reason): n for stage, reasons in version.manifest["removed"].items() for reason, n in reasons.items()}
        for version in (before, after)
    )
    both: dict[str, dict[str, int]] = {}
    for stage, reason in {*then, *now}:
        both.setdefault(stage, {})[reason] = max(then.get((stage, reason), 0), now.get((stage, reason), 0))
    rules = [(stage, reason) for stage, reason, _ in funnel_rows(both)]
    return tuple((*rule, then.get(rule, 0), now.get(rule, 0)) for rule in rules)


def _exact_tokens(before: Version, after: Version, tokens: Path) -> tuple[ExactTokens, ...]:
    """For each tokenizer and split that both versions' token shards have, in the order of tokenizers."""
    counts: dict[str, dict[tuple[str, str, str], int]] = {"before": {}, "after": {}}
    for file in sorted(tokens.glob("*/manifest.json")):
        manifest = json.loads(file.read_bytes())
        for side, version in (("before", before), ("after", after)):
            if manifest["corpus_digest"] == version.manifest["digest"]:
                held_out = str(manifest["held_out"]["fraction"])
                for split in SPLITS:
                    num_tokens = sum(bucket[split]["num_tokens"] for bucket in manifest["buckets"])
                    counts[side][manifest["tokenizer_sha256"], held_out, split] = num_tokens
    shared = sorted(counts["before"].keys() & counts["after"].keys())
    return tuple(ExactTokens(key[0], key[2], counts["before"][key], counts["after"][key]) for key in shared)
