"""Tombstones: what a rule names, however it is written, and what it leaves alone."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.dedup.exact import host_name
from tasks.tombstones import TombstoneRule, Tombstones, parent_domains, url_host


def rules(*named: tuple[str, str], scope: str = "cluster") -> Tombstones:
    return Tombstones.model_validate({"rules": [{"kind": k, "value": v, "scope": scope} for k, v in named]})


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a",
        "http://EXAMPLE.org:8080/",
        "https://deep.under.example.org/x?y=1",
        "https://example.org./a",
        "https://user:pass@example.org/",
        "https://ex%61mple.org/a",
    ],
)
def test_a_domain_names_its_hosts_however_they_are_written(url: str) -> None:
    assert rules(("domain", "Example.ORG.")).scope_of("0" * 32 + "-0", url) == "document"


@pytest.mark.parametrize(
    "url",
    ["https://example.org.evil.net/", "https://notexample.org/", "https://other.net/example.org", "", "http://[broken"],
)
def test_a_domain_names_no_other_host(url: str) -> None:
    assert rules(("domain", "example.org")).scope_of("0" * 32 + "-0", url) == ""


def test_an_international_domain_is_one_in_both_its_forms() -> None:
    for value in ("bücher.example", "BÜCHER.example", "xn--bcher-kva.example"):
        found = rules(("domain", value))
        assert found.scope_of("x", "https://www.Bücher.example/1") == "document"
        assert found.scope_of("x", "https://xn--bcher-kva.example/1") == "document"
        assert found.scope_of("x", "https://bucher.example/1") == ""


def test_a_url_is_compared_in_its_canonical_form() -> None:
    found = rules(("url", "HTTPS://Example.org:443/a?b=2&a=1#top"), scope="document")
    assert found.scope_of("x", "https://example.org/a?a=1&b=2") == "document"
    assert found.scope_of("x", "https://example.org/b") == ""


def test_a_document_is_named_by_its_id_whatever_its_url() -> None:
    found = rules(("document", "ab-0"))
    assert found.scope_of("ab-0", "") == "cluster"
    assert found.scope_of("ab-1", "") == ""


def test_what_comes_later_from_a_place_blocks_nothing_elsewhere() -> None:
    """Whatever stands there now is not what was asked for; its own text must not take other pages with it."""
    assert rules(("domain", "example.org"), ("url", "https://a.net/1")).scope_of("x", "https://a.net/1") == "document"


def test_the_furthest_scope_counts() -> None:
    narrow = rules(("document", "ab-0"), ("url", "https://example.org/a"), scope="document")
    both = narrow.merged(rules(("document", "ab-0")))
    assert narrow.scope_of("ab-0", "https://example.org/a") == "document"
    assert both.scope_of("ab-0", "https://example.org/a") == "cluster"


def test_merging_keeps_the_first_reason_and_goes_further_only() -> None:
    first = Tombstones(rules=(TombstoneRule(kind="url", value="https://a.org/", scope="document", reason="one"),))
    same = Tombstones(rules=(TombstoneRule(kind="url", value="https://A.org/", scope="document", reason="two"),))
    wider = Tombstones(rules=(TombstoneRule(kind="url", value="https://a.org/", scope="cluster", reason="three"),))
    assert first.merged(same) == first
    assert first.merged(wider) == wider
    assert wider.merged(first) == wider


def test_rules_survive_the_manifest_and_a_worker() -> None:
    found = rules(("domain", "example.org"), ("document", "ab-0"))
    assert Tombstones.model_validate({"rules": found.model_dump(mode="json")["rules"]}) == found
    assert found.scope_of("ab-0", "") == "cluster"  # which fills the look-up table
    assert pickle.loads(pickle.dumps(found)).scope_of("q", "https://x.example.org") == "document"
    assert found == rules(("domain", "example.org"), ("document", "ab-0"))


def test_what_is_no_rule_is_refused() -> None:
    for values in ({"kind": "host", "value": "a.org"}, {"kind": "url", "value": ""}, {"kind": "url", "value": 3}):
        with pytest.raises(ValidationError):
            TombstoneRule.model_validate(values)


@given(st.text(max_size=40))
def test_any_host_has_one_comparable_name(host: str) -> None:
    name = host_name(host)
    assert name == name.lower() and isinstance(url_host(f"http://{host}/"), str)


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=5))
def test_parents_are_what_remains_of_a_host(labels: list[str]) -> None:
    host = ".".join(labels)
    assert list(parent_domains(host)) == [".".join(labels[start:]) for start in range(len(labels))]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["url", "domain", "document"]),
            st.sampled_from(["a.org", "b.a.org", "c.net"]),
            st.sampled_from(["cluster", "document"]),
        ),
        max_size=6,
    ),
    st.integers(0, 6),
)
def test_merging_in_parts_blocks_what_the_whole_blocks(named: list[tuple[str, str, str]], cut: int) -> None:
    every = [{"kind": kind, "value": value, "scope": scope} for kind, value, scope in named]
    whole = Tombstones.model_validate({"rules": every})
    first, second = (Tombstones.model_validate({"rules": part}) for part in (every[:cut], every[cut:]))
    merged = first.merged(second)
    for host in ("a.org", "b.a.org", "c.net", "d.net"):
        assert merged.scope_of(host, f"https://{host}/") == whole.scope_of(host, f"https://{host}/")
    assert merged.merged(whole) == merged
