"""What must never come back: the rules that a takedown leaves in a corpus's manifest, and every later version obeys.

A rule names a URL, a domain or one document. Its scope says how far the takedown reached: `cluster` blocks the content
too, under whatever URL, date or id it comes again; `document` blocks this URL, or this document, alone.

What a crawl brings later from a URL or domain that was taken down is kept out, and blocks nothing elsewhere: a parking
page or another owner's article is not what was asked for, and must not take other sites' pages with it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from tasks.dedup.exact import canonical_url, host_name
from tasks.rule import Configuration

Scope = Literal["cluster", "document"]


def url_host(url: str) -> str:
    """`host_name` of a URL; empty where it has none."""
    try:
        return host_name(unquote(urlsplit(url).hostname or ""))
    except ValueError:  # an unclosed bracket
        return ""


def parent_domains(host: str) -> Iterator[str]:
    """The host and every domain that it lies under: `a.b.org`, `b.org`, `org`."""
    while host:
        yield host
        host = host.partition(".")[2]


class TombstoneRule(Configuration):
    """One thing that was taken down. Its value is kept in the form in which it is compared."""

    kind: Literal["url", "domain", "document"]
    value: str = Field(min_length=1, description="Canonical URL, host name (those under it are meant too), document id")
    scope: Scope = "cluster"
    reason: str = Field(default="", description="Why, in the words of who asked for it")
    date: str = Field(default="", description="When, UTC: YYYY-MM-DDTHH:MM:SSZ")

    @model_validator(mode="before")
    @classmethod
    def _comparable(cls, values: object) -> object:
        if not isinstance(values, dict) or not isinstance(values.get("value"), str):
            return values  # refused by the fields' own types
        canonical = {"url": canonical_url, "domain": host_name}.get(str(values.get("kind")), str.strip)
        return {**values, "value": canonical(values["value"])}

    @property
    def names(self) -> tuple[str, str]:
        """What it names: kind and value."""
        return self.kind, self.value


class Tombstones(Configuration):
    """All rules of a corpus."""

    rules: tuple[TombstoneRule, ...] = ()

    @functools.cached_property
    def _scopes(self) -> dict[tuple[str, str], Scope]:
        scopes: dict[tuple[str, str], Scope] = {}
        for rule in self.rules:
            if scopes.get(rule.names) != "cluster":
                scopes[rule.names] = rule.scope
        return scopes

    @functools.cached_property
    def _kinds(self) -> frozenset[str]:
        return frozenset(rule.kind for rule in self.rules)

    def scope_of(self, document_id: str, url: str) -> Scope | Literal[""]:
        """How far the takedown of this newly read document reaches: that of the rule for its id; "document" where only
        its URL or domain is named; "" where nothing is."""
        if not self.rules:
            return ""
        if (scope := self._scopes.get(("document", document_id))) is not None:
            return scope
        named = []
        if "url" in self._kinds and url:
            named.append(("url", canonical_url(url)))
        if "domain" in self._kinds and url:
            named += [("domain", domain) for domain in parent_domains(url_host(url))]
        return "document" if any(name in self._scopes for name in named) else ""

    def merged(self, other: Tombstones) -> Self:
        """These rules and those of `other` that go further: a thing that is named already keeps its reason and date."""
        rules = {rule.names: rule for rule in sorted(self.rules, key=lambda rule: rule.scope == "cluster")}
        rules = {rule.names: rules[rule.names] for rule in self.rules}  # in their order, the furthest of each name
        for rule in other.rules:
            known = rules.get(rule.names)
            if known is None or known.scope not in ("cluster", rule.scope):
                rules.pop(rule.names, None)
                rules[rule.names] = rule
        return type(self)(rules=tuple(rules.values()))
