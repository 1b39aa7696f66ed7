from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup.exact import canonical_url, text_sha256, url_key
from tasks.document import Document


def test_is_the_hash_of_the_document() -> None:
    for text in ("", "text", "ünï cödé 漢字 \U0001f600"):
        assert text_sha256(text) == hashlib.sha256(text.encode()).digest()
        assert text_sha256(text).hex() == Document("id", text, "source").text_sha256


def test_lone_surrogates_have_a_hash() -> None:
    assert text_sha256("\ud800") != text_sha256("\udfff")


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("http://example.com", "https://example.com/"),
        ("HTTPS://Example.COM./", "https://example.com/"),
        ("http://example.com:80/a", "https://example.com/a"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("https://example.com:/a", "https://example.com/a"),
        ("  https://example.com/a#part\n", "https://example.com/a"),
        ("https://example.com/?", "https://example.com/"),
        ("https://example.com/a?&&x=1&", "https://example.com/a?x=1"),
        ("https://example.com/a?b=2&a=1", "https://example.com/a?a=1&b=2"),
        ("https://example.com/a?q=b%20c", "https://example.com/a?q=b+c"),
        ("https://example.com/a/./b/../c", "https://example.com/a/c"),
        ("https://example.com/a/b/..", "https://example.com/a/"),
        ("https://example.com/../../a", "https://example.com/a"),
        ("https://example.com/%7euser/%2e%2e/x%2fy", "https://example.com/x%2Fy"),
        ("https://example.com/caf\u00e9 x", "https://example.com/caf%C3%A9%20x"),
        ("https://example.com/caf%c3%a9", "https://example.com/caf%C3%A9"),
        ("http://M\u00fcnchen.de/", "https://xn--mnchen-3ya.de/"),
        ("http://stra\u00dfe.de/", "https://xn--strae-oqa.de/"),  # another site than strasse.de since IDNA 2008
        ("http://[2001:DB8::1]:8080/a", "https://[2001:db8::1]:8080/a"),
        ("http://reader@example.com/", "https://reader@example.com/"),
        ("https://example.com/a?utm_source=x&id=7&fbclid=y&UTM_Campaign=z", "https://example.com/a?id=7"),
        ("https://example.com/a;jsessionid=12AB?PHPSESSID=9", "https://example.com/a"),
    ],
)
def test_canonical(url: str, canonical: str) -> None:
    assert canonical_url(url) == canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://example.com/a", "http://www.example.com/a"),
        ("http://example.com/a", "http://example.com/a/"),
        ("http://example.com/a", "http://example.com/A"),
        ("http://example.com/a", "http://example.com:8080/a"),
        ("http://example.com:443/a", "http://example.com/a"),
        ("http://example.com/a?id=1", "http://example.com/a?id=2"),
        ("http://example.com/a?id=1", "http://example.com/a?id=1&id=2"),
        ("http://example.com/a?page=", "http://example.com/a"),
        ("http://example.com/a%2Fb", "http://example.com/a/b"),
        ("http://example.com/a//b", "http://example.com/a/b"),
        *(  # what courlan takes for tracking
            (f"http://example.com/a?{name}=1", "http://example.com/a")
            for name in ("ref", "cid", "source", "uid", "game", "global", "session", "medium", "ad_group")
        ),
        ("ftp://example.com/a", "http://example.com/a"),
    ],
)
def test_different_pages_stay_apart(one: str, other: str) -> None:
    assert canonical_url(one) != canonical_url(other)


@pytest.mark.parametrize(
    "junk",
    ["", "no url", "http://", "http:///path", "http://[bad", "http://a:99999/", "http://a:b/", "mailto:A@b", "/a/../b"],
)
def test_junk_comes_back(junk: str) -> None:
    assert canonical_url(f" {junk}\t") == junk


url_like = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=30),
    st.lists(
        st.sampled_from(
            ["http://", "HTTPS://", "a.b", "Ü", ":80", "@", "/", "..", ".", "?", "&", "=", "#", "%7E", "%", " "]
        )
        | st.text(st.characters(exclude_categories=()), max_size=2),
        max_size=12,
    ).map("".join),
)


@given(url_like)
def test_canonical_is_a_fixed_point_and_never_raises(text: str) -> None:
    for url in (text, f"http://example.com/{text}", f"https://example.com/?{text}"):
        canonical = canonical_url(url)
        assert canonical_url(canonical) == canonical


def test_key() -> None:
    assert url_key("") is None
    assert url_key(" \n") is None
    assert url_key("HTTP://example.com") == url_key("https://example.com/")
    assert url_key("https://example.com/a") != url_key("https://example.com/b")
    key = url_key("\ud800")
    assert key is not None and len(key) == 16


def test_same_key_everywhere() -> None:
    """Keys are compared across versions of a corpus: a change of this number is a change of the format."""
    key = url_key("https://example.com/")
    assert key is not None and key.hex() == "3631364f0ab6e8b5ab4945c7d3879de7"
