"""The URL filter: it decides as datatrove's does, says what it matched, and touches neither network nor disk."""

from __future__ import annotations

import gzip
import json
import pickle
import socket
import tarfile
from importlib.resources import files
from pathlib import Path

import pytest
import tldextract
from datatrove.data import Document as DatatroveDocument
from datatrove.pipeline.filters import URLFilter
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.document import Document, Drop, Keep
from tasks.url_filter import BLOCK_LISTS, UrlFilter, _DomainList

DATA = Path(__file__).resolve().parents[2] / "../shared/data"

pytestmark = pytest.mark.filterwarnings("ignore:The 'registered_domain' property:DeprecationWarning")  # datatrove's


@pytest.mark.parametrize(
    ("url", "decision"),
    [
        ("", Keep()),
        ("https://docs.python.org/3/library/ast.html", Keep()),
        ("http://127.0.0.1:8000/x", Keep()),
        ("https://münchen.de/straße", Keep()),
        ("https://www.0-1sex.com/a?b=c", Drop("url_domain", detail="www.0-1sex.com")),
        ("HTTPS://WWW.0-1SEX.COM/a", Drop("url_domain", detail="www.0-1sex.com")),
        ("https://zzzzzzzxxs.kali-shop.ru/", Drop("url_subdomain", detail="zzzzzzzxxs.kali-shop.ru")),
        ("https://docs.example/porno/a", Drop("url_hard_blacklisted", detail="porno")),
        ("https://docs.example/sexy/lingerie/a", Drop("url_soft_blacklisted", 2, 2, "lingerie sexy")),
        ("https://docs.example/sexy/a", Keep()),
        ("https://docs.example/po-rnh-ub", Drop("url_blacklisted_subword", detail="pornhub")),
        ("docs.example/page", Drop("url_invalid", detail="no host name")),
        ("mailto:someone@docs.example", Drop("url_invalid", detail="no host name")),
        ("http://[::1/", Drop("url_invalid", detail="Invalid IPv6 URL")),
        ("http:///path", Drop("url_invalid", detail="no host name")),
    ],
)
def test_decisions_name_what_was_matched(url: str, decision: Keep | Drop) -> None:
    assert UrlFilter().build_url()(url) == decision
    document = Document(document_id="a-0", text="text", source="test", url=url)
    assert UrlFilter().build()(document) == decision


def test_blocked_pages_are_found_although_the_list_has_no_schemes(reference: URLFilter) -> None:
    judge = UrlFilter().build_url()
    pages = sorted(reference.block_listed_url)[::200]
    drops = {f"{scheme}://{page}": judge(f"{scheme}://{page}") for scheme in ("http", "https") for page in pages}
    named = {url for url, drop in drops.items() if drop == Drop("url_blocked", detail=url)}
    assert len(named) > len(pages)  # the others are found by their domain first
    assert all(isinstance(drop, Drop) for drop in drops.values())


@pytest.mark.parametrize(("threshold", "kept"), [(2, False), (3, True)])
def test_soft_words_are_counted_against_the_threshold(threshold: int, kept: bool) -> None:
    decision = UrlFilter(soft_word_threshold=threshold).build_url()("https://docs.example/sexy/lingerie")
    assert (decision == Keep()) is kept


def test_extra_domains_are_dropped_with_their_subdomains_and_without_the_lists_only_they_are() -> None:
    judge = UrlFilter(use_integrated_lists=False, extra_domains=("docs.example", "a.b.example")).build_url()
    assert judge("https://docs.example/x") == Drop("url_domain", detail="docs.example")
    assert judge("https://api.docs.example/x") == Drop("url_domain", detail="docs.example")
    assert judge("https://x.a.b.example:8080/") == Drop("url_domain", detail="a.b.example")
    assert judge("https://notdocs.example/") == Keep()
    assert judge("https://c.b.example/") == Keep()
    assert judge("https://www.0-1sex.com/porno") == Keep()


@pytest.mark.parametrize(
    "domain", ["", "Docs.example", "https://docs.example", "docs.example/a", " docs.example", "#x"]
)
def test_extra_domains_are_host_names(domain: str) -> None:
    with pytest.raises(ValidationError, match="no host name in lower case"):
        UrlFilter(extra_domains=(domain,))


def test_neither_network_nor_home_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "TLDEXTRACT_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    judge = UrlFilter(soft_word_threshold=7).build_url()  # a configuration not loaded before
    assert judge("https://www.0-1sex.com") == Drop("url_domain", detail="www.0-1sex.com")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def reference() -> URLFilter:
    """datatrove's filter with its own data structures, over every 40th domain to spare memory and time."""
    with tarfile.open(str(files("datatrove") / "assets" / BLOCK_LISTS)) as archive:
        streams = {name: archive.extractfile(name) for name in ("domains", "urls")}
        lines = {name: stream.read().decode().splitlines() for name, stream in streams.items() if stream is not None}
    words = {
        name: (files("datatrove") / "assets" / f"{name}.txt").read_text().splitlines()
        for name in ("banned_words", "banned_subwords", "soft_banned_words")
    }
    assert lines["domains"] == sorted(lines["domains"], key=str.encode)
    reference = URLFilter(
        extra_domains=lines["domains"][::40], extra_urls=lines["urls"], use_integrated_lists=False, **words
    )
    reference.tldextractor = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    return reference


def test_agrees_with_datatrove_on_listed_domains(reference: URLFilter) -> None:
    judge = UrlFilter().build_url()
    for number, domain in enumerate(sorted(reference.block_listed_domains)[::100]):
        url = f"https://{'www.' * (number % 2)}{domain}/page"
        theirs = reference.filter(DatatroveDocument(text="", id="", metadata={"url": url}))
        ours = judge(url)
        if theirs is not True and theirs[1] in ("domain", "subdomain"):
            assert isinstance(ours, Drop), url
            assert ours.reason in ("url_domain", "url_subdomain"), url
    near = [f"{domain[:-1]}zq" for domain in sorted(reference.block_listed_domains)[::400]]
    for domain in near:
        theirs = reference.filter(DatatroveDocument(text="", id="", metadata={"url": f"https://{domain}/"}))
        assert theirs is True or judge(f"https://{domain}/") != Keep()


def test_real_pages_and_documentation_stay(reference: URLFilter) -> None:
    judge = UrlFilter().build_url()
    urls = [f"https://docs.example/numpy/2.4.6/numpy.{name}.html" for name in ("lib", "ma.core", "testing")]
    if (DATA / "web/pages.gold.jsonl.gz").exists():
        with gzip.open(DATA / "web/pages.gold.jsonl.gz", "rt", encoding="utf-8") as lines:
            urls += [json.loads(line)["url"] for line in lines]
    for url in urls:
        assert judge(url) == Keep(), url
        assert reference.filter(DatatroveDocument(text="", id="", metadata={"url": url})) is True


@settings(max_examples=200)
@given(
    st.sets(st.text(st.characters(min_codepoint=33, max_codepoint=0x10000), min_size=1, max_size=6)),
    st.text(max_size=6),
)
@example({"a"}, "")
@example(set(), "a")
def test_domain_list_is_a_set(names: set[str], other: str) -> None:
    text = b"".join(line + b"\n" for line in sorted(name.encode("utf-8", "surrogatepass") for name in names))
    for end in (text, text.removesuffix(b"\n")):
        listed = _DomainList(end)
        assert all(name in listed for name in names)
        assert (other in listed) == (other in names and other != "")


def test_a_list_out_of_order_is_noticed() -> None:
    with pytest.raises(AssertionError, match="not sorted"):
        _DomainList(b"c\nb\na\n")


def test_the_configuration_pickles() -> None:
    rule = UrlFilter(soft_word_threshold=3, extra_domains=("a.example",))
    assert pickle.loads(pickle.dumps(rule)) == rule
