"""What a page is held out by, in every step of an ablation alike."""

from __future__ import annotations


def page_key(url: str, document_id: str) -> str:
    """What stands for a page as one: its URL; of a record that has none, its id, which comes from its content."""
    return url or document_id
