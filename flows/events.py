"""The event that a published corpus version emits. What listens to it is in flows/automations.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

CORPUS_PUBLISHED = "tokenmill.corpus.published"
CORPUS_RESOURCE = "tokenmill.corpus"


def corpus_published(result: Mapping[str, Any]) -> None:
    """Emit `tokenmill.corpus.published` for the result of a refresh that has published a new version.

    The version is named as name@version: a training that starts later trains on this one and not on the latest.
    """
    name, _, version = result["corpus"].partition("@")
    emit_event(
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
