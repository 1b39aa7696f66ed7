from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup.exact import text_sha256
from tasks.document import Document


@given(st.text(st.characters(exclude_categories=())))
def test_is_the_documents_own_hash(text: str) -> None:
    assert text_sha256(text).hex() == Document(document_id="a", text=text, source="s").text_sha256


def test_known_value_and_no_normalisation() -> None:
    assert text_sha256("") == hashlib.sha256(b"").digest()
    assert text_sha256("caf\u00e9") != text_sha256("cafe\u0301")
    assert text_sha256("a") != text_sha256("a ")
