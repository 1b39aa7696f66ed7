"""A small store whose corpora grow batch by batch: rows of made-up prose through the real refresh, no engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from tasks.curation import make_version
from tasks.ports import InProcessMap
from tasks.recipes.curation import CurationRecipe, fineweb
from tasks.refresh import Refresh
from tasks.store import Store
from tasks.takedown import TakedownQuery, find_documents, newly_taken_down
from tasks.tombstones import Scope
from tasks.url_filter import UrlFilter
from tests.data.prose import prose

Row = dict[str, str]


def row(text: str | int, url: str, date: str = "2024-01-01T00:00:00Z") -> Row:
    """A page; `text` as it is, or prose by its seed."""
    return {"text": prose(text) if isinstance(text, int) else text, "url": url, "date": date}


def near_copy(seed: int) -> str:
    """Prose that resembles that of `seed`."""
    return prose(seed) + "\nThis page was copied on another day."


def recipe(**changes: Any) -> CurationRecipe:
    """The usual rules in four buckets, without what takes long to load."""
    light = {"num_buckets": 4, "url_filter": UrlFilter(use_integrated_lists=False), "toxicity_rules": ()}
    return fineweb().model_copy(update={**light, **changes})


def add(store: Store, name: str, rows: Sequence[Row], **options: Any) -> dict[str, Any]:
    """A further file of `rows` in the corpus's source, and the next version; its manifest."""
    source = store.root.parent / f"{name}-pages"
    source.mkdir(exist_ok=True)
    number = len(list(source.iterdir()))
    (source / f"batch-{number}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return refresh(store, name, **options)


def refresh(store: Store, name: str, **options: Any) -> dict[str, Any]:
    """The next version of all that the corpus's source holds; its manifest."""
    chosen = options.pop("recipe", recipe())
    plan = Refresh.plan(store, name, [str(store.root.parent / f"{name}-pages")], chosen, **options)
    return make_version(plan, InProcessMap())[1]


def take_down(store: Store, name: str, query: TakedownQuery, scope: Scope = "cluster", **facts: Any) -> dict[str, Any]:
    """The next version without what `query` names; its manifest."""
    search = find_documents(store, query, [name])
    newly = newly_taken_down(search.latest(name), search.to_flag(name, scope), scope)
    plan = Refresh.takedown(store, name, search.rules(scope, "asked to", "2026-01-01T00:00:00Z"), newly)
    return make_version(plan, InProcessMap(), facts=facts)[1]


def table(store: Store, reference: str, kind: str) -> list[dict[str, Any]]:
    """All rows of one kind of part of a version."""
    files = sorted((store.version_folder(reference) / kind).glob("*.parquet"))
    return [one for file in files for one in pq.read_table(file).to_pylist()]


def urls(store: Store, reference: str) -> set[str]:
    """URLs of the documents of a version."""
    return {one["url"] for one in table(store, reference, "documents")}


def id_of(store: Store, reference: str, url: str) -> str:
    """The id of the record with this URL."""
    return next(one["record_id"] for one in table(store, reference, "ledger") if one["url"] == url)
