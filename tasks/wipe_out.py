"""The guard against wiping out: a stage that removes nearly all of one source, domain or language stops the run.

A rule that does not fit is quiet. It removes 97 % of a collection of books whose lines end early, the funnel shows one
number more, and the loss is found when the model cannot quote them. So before anything is published, each stage is
judged by how many of a group's documents entered it and how many it removed, among the records that this run has read.
Where these are too few of a source or a language, those of the runs before are added, as long as they were too few too:
a version carries to the next one what could not be judged yet.

What a stage removes because it was asked to is no loss:

    stage        judged by                    why not by the others
    url_filter   source                       a blocked domain leaves here whole
    read         source, domain               only what could not be looked at (damaged bytes, bodies that do not
                                              decode): a source may be nothing but images, redirects and answers of 404
    extract      source, domain               no language is known yet
    language     source, domain, language     among documents in languages that are kept; those in other languages are
                                              judged by source alone, with a limit of their own
    quality      source, domain, language
    toxicity     source, domain, language
    share        -                            a share was asked for: where one source is worse than another, most of
                                              it goes, and no limit on that says whether the rule fits
    duplicates   -                            each has a survivor, so its text is not lost; a site that was crawled
                                              twice leaves whole

A domain is judged only where it is a notable part of what enters the stage: of the millions of domains in a crawl many
are nothing but spam, and good rules remove all of it. Sources and languages are few, and each is judged. Of a run so
small that every domain of two pages is a notable part, no domain is carried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import Field

from tasks.document import QUARANTINE_REASONS
from tasks.rule import Configuration

Kind = Literal["source", "domain", "language"]
Exits = Mapping[tuple[str, str], int]
"""Of a group: at which stage and for which reason its records left, or (KEPT, ""), and how many did so."""
Groups = Mapping[tuple[Kind, str], Exits]

KEPT = "kept"
JUDGED_BY: Mapping[str, tuple[Kind, ...]] = {
    "url_filter": ("source",),
    "read": ("source", "domain"),
    "extract": ("source", "domain"),
    "language": ("source", "domain", "language"),
    "quality": ("source", "domain", "language"),
    "toxicity": ("source", "domain", "language"),
    "decontaminate": ("source", "domain", "language"),
}
_ORDER = (*JUDGED_BY, KEPT)  # a URL is judged before its page
_ROUGH = "language_rough"  # decided on before extraction, which such a page never enters
_OTHER_LANGUAGE = frozenset({"language_other", _ROUGH})
_NOT_JUDGED: Mapping[str, frozenset[str]] = {"extract": frozenset({_ROUGH}), "language": _OTHER_LANGUAGE}
_NUM_REASONS = 3


class WipeOutGuard(Configuration):
    """How much of a source, a domain or a language one stage may remove.

    The default limit lies between what rules are known to remove from what they were not made for, and what was a
    fault: FineWeb's rules remove 93 to 94 % of API documentation (measured on 200, 300, 500, 1,000 and 2,500 pages of
    the embedded default), and a filter once removed 97 % of Project Gutenberg unnoticed.
    """

    max_removed_fraction: float = Field(
        default=0.96, ge=0, le=1, description="Share of a group that one stage may remove; 1: all of it"
    )
    max_other_language_fraction: float = Field(
        default=0.999,
        ge=0,
        le=1,
        description="Share of a source that may be in languages that are not kept; 1: all of it",
    )
    min_documents: int = Field(default=200, ge=1, description="A stage is judged by groups of which so many enter it")
    min_domain_fraction: float = Field(
        default=0.01, ge=1e-4, le=1, description="A stage is judged by domains that are this share of what enters it"
    )


@dataclass(frozen=True)
class WipeOut:
    """One group that a stage removed more of than the guard allows."""

    stage: str
    kind: Kind
    group: str
    documents_in: int
    removed: int
    reasons: Mapping[str, int]
    """Most first."""
    limit: str
    """The field of the guard that was exceeded."""
    max_fraction: float
    """Its value."""
    documents_before: int = 0
    """Of `documents_in`, those that entered in earlier runs."""

    def __str__(self) -> str:
        reasons = [f"{count:,} {reason}" for reason, count in self.reasons.items()]
        more = len(reasons) - _NUM_REASONS
        named = ", ".join(reasons[:_NUM_REASONS]) + (f" and {more} more reason{'s' * (more > 1)}" if more > 0 else "")
        before = f" ({self.documents_before:,} of them in refreshes before)" if self.documents_before else ""
        return (
            f"{self.stage} removed {self.removed:,} of {self.documents_in:,} documents"
            f" ({self.removed / self.documents_in:.1%}, at most {self.max_fraction:.4g} is allowed) of {self.kind}"
            f" {self.group}{before}: {named}"
        )


class WipeOutError(ValueError):
    """A stage removed nearly all of a group, and nobody has allowed it. Nothing was published."""

    def __init__(self, wipe_outs: Sequence[WipeOut]) -> None:
        first = wipe_outs[0]
        more = len(wipe_outs) - 1
        mend = "mend the files" if first.stage == "read" else "change the rule"
        others = f" (and {more} such group{'s' * (more > 1)} more)" if more else ""
        super().__init__(
            f"{first}{others}; nothing was published: {mend}, or change the limit"
            f" (--set guard.{first.limit}=...), or publish all the same with --allow-wipe-out"
        )
        self.wipe_outs = tuple(wipe_outs)


def _is_judged(stage: str, left_at: str, reason: str) -> bool:
    """Whether a stage is judged by records that have left at this stage, for this reason."""
    if stage == "read" == left_at:
        return reason in QUARANTINE_REASONS
    return reason not in _NOT_JUDGED.get(stage, frozenset())


def entered(exits: Exits, stage: str) -> int:
    """How many of a group's documents a stage is judged by: those that entered it, and that it had to decide on."""
    first = _ORDER.index(stage)
    return sum(
        count for (at, reason), count in exits.items() if _ORDER.index(at) >= first and _is_judged(stage, at, reason)
    )


def is_large(exits: Exits, stage: str, num_entered: int, min_fraction: float) -> bool:
    """Whether a domain is a notable part of the `num_entered` documents that a stage is judged by."""
    return 0 < num_entered * min_fraction <= entered(exits, stage)


def entered_in_all(groups: Groups, stage: str) -> int:
    """How many documents, of whatever group, a stage is judged by."""
    return sum(entered(exits, stage) for (kind, _), exits in groups.items() if kind == "source")


@dataclass(frozen=True)
class Tally:
    """How many documents of a group entered a stage, and how many it removed: what a limit is held against."""

    stage: str
    kind: Kind
    group: str
    limit: str
    """The field of the guard."""
    documents_in: int
    reasons: Mapping[str, int]
    documents_before: int = 0
    """Of `documents_in`, those that entered in earlier runs."""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What it is a tally of."""
        return self.stage, self.kind, self.group, self.limit

    def after(self, before: Tally) -> Tally:
        """The same, with the documents of the runs before."""
        reasons = {
            reason: self.reasons.get(reason, 0) + before.reasons.get(reason, 0)
            for reason in (*self.reasons, *before.reasons)
        }
        return replace(
            self,
            documents_in=self.documents_in + before.documents_in,
            reasons=reasons,
            documents_before=before.documents_in,
        )


def find_wipe_outs(
    groups: Groups, guard: WipeOutGuard, kept_languages: Sequence[str], before: Iterable[Tally] = ()
) -> tuple[WipeOut, ...]:
    """Every group that a stage removed too much of, those with most documents first.

    `kept_languages` are those that the recipe names: only of these is it a loss where the identifier is unsure of all.
    `before` are the tallies that could not be judged in earlier runs.
    """
    tallies = _with_those_before(groups, guard, kept_languages, before)
    found = [_wipe_out(tally, guard) for tally in tallies if tally.documents_in >= guard.min_documents]
    kinds = ("source", "domain", "language")
    return tuple(
        sorted(
            filter(None, found),
            key=lambda each: (-each.removed, kinds.index(each.kind), each.group, _ORDER.index(each.stage)),
        )
    )


def unjudged(
    groups: Groups, guard: WipeOutGuard, kept_languages: Sequence[str], before: Iterable[Tally] = ()
) -> tuple[Tally, ...]:
    """The tallies of sources and languages that are too small to be judged, with those of the runs before."""
    tallies = _with_those_before(groups, guard, kept_languages, before)
    few = [tally for tally in tallies if 0 < tally.documents_in < guard.min_documents and tally.kind != "domain"]
    return tuple(sorted(few, key=lambda tally: tally.place))


def _with_those_before(
    groups: Groups, guard: WipeOutGuard, kept_languages: Sequence[str], before: Iterable[Tally]
) -> list[Tally]:
    """This run's tallies where these are of enough documents, else with what was carried of the same."""
    carried = {tally.place: tally for tally in before}
    tallies = []
    for tally in (*_tallies(groups, guard, frozenset(kept_languages)), *_other_languages(groups)):
        known = carried.pop(tally.place, None)
        tallies.append(tally if known is None or tally.documents_in >= guard.min_documents else tally.after(known))
    return [*tallies, *carried.values()]


def _wipe_out(tally: Tally, guard: WipeOutGuard) -> WipeOut | None:
    removed, max_fraction = sum(tally.reasons.values()), getattr(guard, tally.limit)
    if removed / tally.documents_in <= max_fraction:
        return None
    return WipeOut(
        stage=tally.stage,
        kind=tally.kind,
        group=tally.group,
        documents_in=tally.documents_in,
        removed=removed,
        reasons=dict(sorted(tally.reasons.items(), key=lambda item: (-item[1], item[0]))),
        limit=tally.limit,
        max_fraction=max_fraction,
        documents_before=tally.documents_before,
    )


def _tallies(groups: Groups, guard: WipeOutGuard, kept_languages: frozenset[str]) -> Iterator[Tally]:
    for stage, kinds in JUDGED_BY.items():
        num_entered = entered_in_all(groups, stage)
        for (kind, group), exits in groups.items():
            if kind not in kinds:
                continue
            if kind == "domain" and not is_large(exits, stage, num_entered, guard.min_domain_fraction):
                continue
            if kind == "language" and stage == "language" and group not in kept_languages:
                continue
            reasons = {
                reason: count for (at, reason), count in exits.items() if at == stage and _is_judged(stage, at, reason)
            }
            yield Tally(stage, kind, group, "max_removed_fraction", entered(exits, stage), reasons)


def _other_languages(groups: Groups) -> Iterator[Tally]:
    """Of sources: what is in a language that is not kept. Next to all of one is the wrong source, or language."""
    for (kind, group), exits in groups.items():
        if kind == "source":
            reasons = {
                reason: count for (at, reason), count in exits.items() if at == "language" and reason in _OTHER_LANGUAGE
            }
            documents_in = entered(exits, "language") + sum(reasons.values())
            yield Tally("language", kind, group, "max_other_language_fraction", documents_in, reasons)


def unjudged_before(base: Mapping[str, Any] | None) -> tuple[Tally, ...]:
    """What the manifest of the version that is built onto carries; nothing where there is none, or an older one."""
    return tuple(Tally(**each) for each in base.get("unjudged", ())) if base is not None else ()


def recorded(wipe_outs: Iterable[WipeOut], version: int, base: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What a version's manifest says of wipe-outs that were allowed: its own, and those of what it was built onto."""
    before = list(base.get("wipe_outs", [])) if base is not None else []
    return [*before, *({"version": version, **asdict(each)} for each in wipe_outs)]
