"""The event that a published corpus version emits. What listens to it is in flows/automations.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from tasks.atomic import write_json
from tasks.store import Store

CORPUS_PUBLISHED = "tokenmill.corpus.published"
CORPUS_RESOURCE = "tokenmill.corpus"


_ANNOUNCED = "announced.json"


def corpus_published(store: Store, result: Mapping[str, Any]) -> None:
    """Emit `tokenmill.corpus.published` for the result of a refresh, unless it was emitted for this version before.

    So a version whose refresh was killed after it was published is announced by the next refresh, which finds no
    change. The version is named as name@version: a training that starts later trains on this one and not on the latest.
    """
    name, _, version = result["corpus"].partition("@")
    announced = store.corpora / name / _ANNOUNCED
    if announced.is_file() and json.loads(announced.read_bytes())["version"] >= int(version):
        return
    emitted = emit_event(
        event=CORPUS_PUBLISHED,
        resource={
            "prefect.resource.id": f"{CORPUS_RESOURCE}.{name}",
            "prefect.resource.name": result["corpus"],
        },
        payload={
            "corpus": result["corpus"],
            "name": name,
            "version": int(version),
            "documents": result["documents_kept"],
            "estimated_tokens": result["estimated_tokens"],
            "new_estimated_tokens": result["new_estimated_tokens"],
        },
    )
    if emitted is not None:  # else Prefect has logged why
        write_json(announced, {"version": int(version)})
