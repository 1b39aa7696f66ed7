"""Whom a takedown concerns: every record that a query names, in every version of every corpus, and its copies.

The ledger has one row for each record of a version, kept or not, so it is all that is searched. Versions share the
parts in which they do not differ: such a part is read once. A query's own records are *asked for*; the *copies* are
what deduplication has put into one cluster with them, and what an earlier takedown has removed as their copy.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import field_validator, model_validator

from tasks.dedup.exact import canonical_url, host_name
from tasks.rule import Configuration
from tasks.store import Store
from tasks.tombstones import Scope, TombstoneRule, Tombstones, url_host

_COLUMNS = ["record_id", "url", "source_file", "outcome", "stage", "reason", "detail", "survivor_id"]
_DOCUMENT_ID = re.compile(r"[0-9a-f]{32}-[0-9]+")


class TakedownQuery(Configuration):
    """What is to be found: documents by their URL, by the domain they come from, by their id."""

    urls: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()

    @field_validator("urls")
    @classmethod
    def _with_host(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not url_host(url):
                raise ValueError(f"{url!r} is no URL: give the whole address, such as https://example.org/page.html")
        return tuple(dict.fromkeys(canonical_url(url) for url in urls))

    @field_validator("domains")
    @classmethod
    def _registrable(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        for domain in domains:
            if not domain.strip(" .") or re.search(r"[\s/:@?#*\\]", domain.strip()):
                raise ValueError(
                    f"{domain!r} is no domain: give a host name such as example.org; the hosts under it are meant too"
                )
            if is_public_suffix(host_name(domain)):
                raise ValueError(f"{domain!r} is a public suffix: everything under it would go; name a domain below it")
        return tuple(dict.fromkeys(host_name(domain) for domain in domains))

    @field_validator("documents")
    @classmethod
    def _ids(cls, documents: tuple[str, ...]) -> tuple[str, ...]:
        for document in documents:
            if not _DOCUMENT_ID.fullmatch(document.strip()):
                raise ValueError(
                    f"{document!r} is no document id: it has 32 hexadecimal digits, a hyphen and a number; the ledger"
                    " and the corpus card have them"
                )
        return tuple(dict.fromkeys(document.strip() for document in documents))

    @model_validator(mode="after")
    def _names_something(self) -> TakedownQuery:
        if not (self.urls or self.domains or self.documents):
            raise ValueError("nothing to take down: name a URL, a domain or a document")
        return self

    @property
    def tombstones(self) -> Tombstones:
        """The query as rules: what matches them is what it names."""
        named = {"url": self.urls, "domain": self.domains, "document": self.documents}
        return Tombstones(rules=tuple(TombstoneRule(kind=k, value=v) for k, values in named.items() for v in values))

    def candidates(self) -> pc.Expression:
        """Ledger rows that may match: cheap, and never misses one. A host is written in many ways only where it has
        letters beyond ASCII or percent signs."""
        found = among("record_id", self.documents)
        hosts = [*self.domains, *(url_host(url).removeprefix("www.") for url in self.urls)]
        if hosts:
            odd = r"^[^/?#]*//[^/?#]*([^\x00-\x7f]|%)"
            found = found | pc.match_substring_regex(pc.field("url"), "(?i)" + "|".join([*map(re.escape, hosts), odd]))
        return found


def among(column: str, ids: Collection[str]) -> pc.Expression:
    """Rows whose `column` is one of `ids`, as a filter of a Parquet file."""
    return pc.field(column).isin(pa.array(sorted(ids), pa.string()))


def is_public_suffix(host: str) -> bool:
    """Whether nobody can own `host` itself: com, co.uk. By the list inside tldextract; nothing is downloaded."""
    from tldextract import TLDExtract  # here: most of a second, and only a takedown of a domain needs it

    parts = TLDExtract(suffix_list_urls=(), cache_dir=None)(host)
    return bool(parts.suffix) and not parts.domain


UNTIL_PURGED = " until purged: "
"""In the ledger's `detail` of what was purged from a version, between what it was there and the record of the purge."""

State = Literal["kept", "duplicate", "screened_out", "taken_down"]


@dataclass(frozen=True, slots=True)
class RecordState:
    """What became of a record in one version."""

    outcome: str
    stage: str
    reason: str
    detail: str
    survivor_id: str

    @property
    def was_kept(self) -> bool:
        """It was a document of this version, and still is, unless it was purged from it."""
        return self.outcome == "kept" or self.detail.startswith(f"kept{UNTIL_PURGED}")

    @property
    def state(self) -> State:
        if self.outcome == "kept":
            return "kept"
        if self.stage == "takedown":
            return "taken_down"
        return "duplicate" if self.survivor_id else "screened_out"

    def cluster_of(self, record_id: str) -> str:
        """The survivor of the record's cluster, which may be itself.

        Who lost all its paragraphs names the document that holds the first of them, which is no copy of it.
        """
        return record_id if self.stage == "paragraph_dedup" else self.survivor_id or record_id

    @property
    def words(self) -> str:
        """For people: `kept`, `near_duplicate of <id>`, `quality: too_few_words`, `taken_down`."""
        if self.state == "kept":
            return "kept"
        return f"{self.reason} of {self.survivor_id}" if self.survivor_id else f"{self.stage}: {self.reason}"


@dataclass
class FoundRecord:
    """A record, and its state in each version that knows it, by name@version in ascending order."""

    record_id: str
    url: str
    source_file: str
    asked: bool
    """The query names it; else it is a copy of one that is named."""
    versions: dict[str, RecordState] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownVersion:
    """A published version: its folder, here, and its manifest."""

    name: str
    number: int
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def digests(self) -> tuple[str, ...]:
        """Its digest, and those that it had before something was purged from it."""
        return (self.manifest["digest"], *(entry["digest_before"] for entry in self.manifest.get("purged", ())))

    def parts(self, kind: str) -> list[Mapping[str, Any]]:
        """The manifest's entries of one kind of Parquet part, in the order of buckets."""
        paths = {part["path"]: part for part in self.manifest["parts"]}
        return [paths[path] for path in sorted(paths) if path.startswith(f"{kind}/") and path.endswith(".parquet")]

    def parts_of(self, kind: str, ids: Collection[str]) -> Iterator[tuple[Mapping[str, Any], list[str]]]:
        """The parts that these documents belong into, each with its share of the ids, sorted."""
        parts = self.parts(kind)
        by_bucket: dict[int, list[str]] = defaultdict(list)
        for one in sorted(ids):
            by_bucket[int(one[:4], 16) * len(parts) // 65536].append(one)
        for bucket in sorted(by_bucket) if parts else ():
            yield parts[bucket], by_bucket[bucket]


@dataclass(frozen=True)
class TakedownSearch:
    """All that was found: records by id, and the versions that were looked at, by name and ascending."""

    query: TakedownQuery
    records: Mapping[str, FoundRecord]
    versions: tuple[KnownVersion, ...]

    @property
    def asked(self) -> list[FoundRecord]:
        return [record for record in self.records.values() if record.asked]

    @property
    def copies(self) -> list[FoundRecord]:
        return [record for record in self.records.values() if not record.asked]

    def targets(self, scope: Scope) -> dict[str, FoundRecord]:
        """What is to go: with scope "cluster" the copies too."""
        return {one: record for one, record in self.records.items() if record.asked or scope == "cluster"}

    def names(self, scope: Scope) -> list[str]:
        """Corpora that know, or once knew, any of it."""
        known = {
            reference.partition("@")[0] for record in self.targets(scope).values() for reference in record.versions
        }
        return sorted(known)

    def latest(self, name: str) -> KnownVersion:
        return [version for version in self.versions if version.name == name][-1]

    def to_flag(self, name: str, scope: Scope) -> list[str]:
        """Ids of those targets that the next version of `name` is to flag.

        Not of copies that an earlier takedown keeps out already: flagged, they would keep out what resembles them, and
        each repetition would reach one step further.
        """
        latest = self.latest(name).reference
        return [
            one
            for one, record in self.targets(scope).items()
            if record.asked or latest not in record.versions or record.versions[latest].reason != "taken_down_copy"
        ]

    def rules(self, scope: Scope, reason: str, date: str) -> Tombstones:
        """The tombstones: what the query names, the URLs of documents that it names by id, and every copy by its id."""
        wanted = [rule.names for rule in self.query.tombstones.rules]
        by_id = [self.records[one] for one in self.query.documents if one in self.records]
        wanted += [("url", record.url) for record in by_id if url_host(record.url)]
        if scope == "cluster":
            flagged = {one for name in self.names(scope) for one in self.to_flag(name, scope)}
            wanted += [("document", record.record_id) for record in self.copies if record.record_id in flagged]
        rules = (TombstoneRule(kind=k, value=v, scope=scope, reason=reason, date=date) for k, v in wanted)
        return Tombstones().merged(Tombstones(rules=tuple(rules)))


def find_documents(store: Store, query: TakedownQuery, names: Sequence[str] = ()) -> TakedownSearch:
    """Look for what the query names in all versions of the corpora `names` (none: all), and for copies of it.

    Versions that only the store's remote has are fetched. Holds what was found in memory, and the filtered columns of
    one part at a time. ValueError where there is no corpus of such a name.
    """
    versions = tuple(_known_versions(store, names or store.names()))
    search = _Search(versions, query)
    search.ask()
    search.add_equal_texts()
    search.add_clusters()
    search.add_earlier_copies()
    search.complete()
    return TakedownSearch(query, dict(sorted(search.records.items())), versions)


def _known_versions(store: Store, names: Sequence[str]) -> Iterator[KnownVersion]:
    for name in names:
        store.version_folder(name)  # refuses an unknown one
        for number in store.versions(name):
            folder = store.corpus(f"{name}@{number}")
            yield KnownVersion(name, number, folder, store.corpus_manifest(f"{name}@{number}"))


@dataclass
class _Search:
    """The passes over the ledgers, and what they have found so far."""

    versions: tuple[KnownVersion, ...]
    query: TakedownQuery
    records: dict[str, FoundRecord] = field(default_factory=dict)

    def ask(self) -> None:
        """Every version: the records that the query names."""
        rules = self.query.tombstones
        candidates = self.query.candidates()
        seen: dict[str, list[dict[str, Any]]] = {}
        for version in self.versions:
            for part in version.parts("ledger"):
                if part["sha256"] not in seen:
                    rows = _rows(version, part, candidates)
                    seen[part["sha256"]] = [row for row in rows if rules.scope_of(row["record_id"], row["url"] or "")]
                for row in seen[part["sha256"]]:
                    self._add(version, row, asked=True)

    def add_equal_texts(self) -> None:
        """Who has the text of one of them to the letter, also in corpora where deduplication never saw both."""
        texts: set[bytes] = set()
        for version in self.versions:
            documents = [
                one
                for one, record in self.records.items()
                if version.reference in record.versions and record.versions[version.reference].state != "screened_out"
            ]
            for part, ids in version.parts_of("index", documents):
                texts |= set(_index_column(version, part, "text_sha256", among("document_id", ids)))
        equal = pc.field("text_sha256").isin(pa.array(sorted(texts), pa.binary(32)))
        seen: dict[str, list[str]] = {}
        for version in self.versions if texts else ():
            found = []
            for part in version.parts("index"):
                if part["sha256"] not in seen:
                    seen[part["sha256"]] = _index_column(version, part, "document_id", equal)
                found += seen[part["sha256"]]
            for part, ids in version.parts_of("ledger", set(found) - self.records.keys()):
                for row in _rows(version, part, among("record_id", ids)):
                    self._add(version, row, asked=False)

    def add_clusters(self) -> None:
        """The clusters of all that was found, each in the newest version of its corpus in which it has one.

        A record that has been taken down has left its cluster: an earlier version still knows it, purged or not.
        """
        newest: dict[tuple[str, str], str] = {}
        for record in list(self.records.values()):
            for reference, state in record.versions.items():
                if state.state in ("kept", "duplicate") or UNTIL_PURGED in state.detail:
                    newest[reference.partition("@")[0], record.record_id] = reference
        heads: dict[str, set[str]] = defaultdict(set)
        for (_, record_id), reference in newest.items():
            heads[reference].add(self.records[record_id].versions[reference].cluster_of(record_id))
        for version in self.versions:
            if members := heads.get(version.reference):
                copies = among("survivor_id", members) & (pc.field("stage") != "paragraph_dedup")
                self._add_rows(version, copies | among("record_id", members))

    def add_earlier_copies(self) -> None:
        """What an earlier takedown has removed as a copy of any of these."""
        for version in self.versions:
            if version.manifest.get("removed", {}).get("takedown", {}).get("taken_down_copy"):
                self._add_rows(
                    version,
                    (pc.field("reason") == "taken_down_copy") & among("survivor_id", self.records),
                )

    def complete(self) -> None:
        """The state of every copy in the other versions."""
        copies = sorted(one for one, record in self.records.items() if not record.asked)
        for version in self.versions:
            for part, ids in version.parts_of("ledger", copies):
                for row in _rows(version, part, among("record_id", ids)):
                    self._add(version, row, asked=False)
        order = {version.reference: position for position, version in enumerate(self.versions)}
        for record in self.records.values():
            record.versions = dict(sorted(record.versions.items(), key=lambda item: order[item[0]]))

    def _add_rows(self, version: KnownVersion, wanted: pc.Expression) -> None:
        for part in version.parts("ledger"):
            for row in _rows(version, part, wanted):
                self._add(version, row, asked=False)

    def _add(self, version: KnownVersion, row: Mapping[str, Any], *, asked: bool) -> None:
        record = self.records.setdefault(
            row["record_id"], FoundRecord(row["record_id"], row["url"] or "", row["source_file"] or "", asked)
        )
        record.versions[version.reference] = RecordState(
            row["outcome"], row["stage"] or "", row["reason"] or "", row["detail"] or "", row["survivor_id"] or ""
        )


def _index_column(version: KnownVersion, part: Mapping[str, Any], name: str, wanted: pc.Expression) -> list[Any]:
    values: list[Any] = pq.read_table(version.folder / part["path"], columns=[name], filters=wanted)[name].to_pylist()
    return values


def _rows(version: KnownVersion, part: Mapping[str, Any], wanted: pc.Expression) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(
        version.folder / part["path"], columns=_COLUMNS, filters=wanted
    ).to_pylist()
    return found


def newly_taken_down(version: KnownVersion, ids: Collection[str], scope: Scope) -> dict[str, Scope]:
    """Documents of the version's index that this takedown flags: those it reaches further into than one before it."""
    newly: dict[str, Scope] = {}
    for part, share in version.parts_of("index", ids):
        table = pq.read_table(
            version.folder / part["path"],
            columns=["document_id", "taken_down"],
            filters=among("document_id", share),
        )
        for document_id, flag in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
            if flag not in ("cluster", scope):
                newly[document_id] = scope
    return newly
