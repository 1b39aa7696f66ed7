"""A whole preview: a sample by one recipe, or by a recipe and the same with changed settings, and what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np

from tasks.curation import extract
from tasks.keep_best import SHARE_STAGE
from tasks.manifest import code_version, fingerprint
from tasks.model_files import models_in
from tasks.ports import ShardMap
from tasks.preview.decide import Decided, decide
from tasks.preview.sample import DEFAULT_PAGES, SampledRefresh, Sampling, plan_sample, read_sample, with_recipe
from tasks.preview.score import score_rules
from tasks.preview.scores import RuleScores, document_ids, load_scores
from tasks.quality_share import TICKS, lowest_kept
from tasks.recipes.curation import CurationRecipe
from tasks.refresh_stages import DECONTAMINATE
from tasks.rule import Rule
from tasks.screen import LEDGER_FILE
from tasks.stages import Progress, StageOutput, no_progress
from tasks.store import Store
from tasks.tables import read_rows

P = ParamSpec("P")
R = TypeVar("R")
Call = Callable[..., Any]
"""Calls a step: its name, the function, its arguments."""

_UNSEEN = ("deduplication", "num_buckets", "shard_records", "shard_bytes", "guard")
"""Parts of a recipe that decide nothing that a preview shows."""


def call(name: str, function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """A `Call` that adds nothing."""
    return function(*arguments, **options)


@dataclass(frozen=True)
class Outcome:
    """What becomes of a record."""

    stage: str
    """Of the ledger; empty: it is kept."""
    reason: str
    url: str


@dataclass(frozen=True, eq=False)
class Chain:
    """A sample that went through all that a recipe has."""

    recipe: CurationRecipe
    sampling: Sampling
    ended: Mapping[str, Outcome]
    """Records that no rule was asked about, by id: not read, filtered by URL, without text, in another language."""
    ids: Sequence[str]
    """Of the documents that the rules were asked about."""
    rules: tuple[Rule, ...]
    """The language first, then those of quality, of toxicity and of decontamination, and last the one that keeps a
    share of the rest: with the limit that keeps this share of the sample."""
    scores: tuple[RuleScores, ...]
    decided: Decided
    made_by: Mapping[str, str]
    """Fingerprints of the sample, the extraction and each rule's scores, by name."""

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(each.scored.label for each in self.scores)

    @property
    def removed(self) -> dict[str, dict[str, int]]:
        """Records by stage and reason, as the ledger of a refresh of these records would have them."""
        counts: dict[str, dict[str, int]] = {}
        for outcome in self.ended.values():
            reasons = counts.setdefault(outcome.stage, {})
            reasons[outcome.reason] = reasons.get(outcome.reason, 0) + 1
        for score, outcome_ in zip(self.scores, self.decided.rules, strict=True):
            for reason, number in outcome_.reasons_in_sequence.items():
                reasons = counts.setdefault(score.scored.stage, {})
                reasons[reason] = reasons.get(reason, 0) + number
        return counts

    def reason(self, place: int) -> tuple[str, str]:
        """Ledger stage and reason of the document at this place; empty where it is kept."""
        rule = int(self.decided.dropped_by[place])
        if rule < 0:
            return "", ""
        scores, decided = self.scores[rule], self.decided.rules[rule]
        check = int(decided.decided_by[place])
        is_check = check < len(decided.checks)
        return scores.scored.stage, decided.checks[check].reason if is_check else str(scores.reasons[place])


def score_chain(
    refresh: SampledRefresh, shard_map: ShardMap, progress: Progress = no_progress, step: Call = call
) -> Chain:
    """Read, extract and score the sample; whatever of it was scored before is found."""
    recipe = refresh.recipe
    records, sampling = step("sample", read_sample, refresh, shard_map, progress)
    extracted: StageOutput = step("extract", extract, refresh, records, shard_map, progress)
    rules = [
        ("language", recipe.language),
        *(("quality", rule) for rule in recipe.document_rules),
        *(("toxicity", rule) for rule in recipe.toxicity_rules),
    ]
    if recipe.decontamination.is_on:
        rules.append((DECONTAMINATE, recipe.decontamination))
    if recipe.share_rule is not None:
        rules.append((SHARE_STAGE, recipe.share_rule.scoring()))
    with models_in(refresh.store.models):
        scored = step("score", score_rules, refresh.store, rules, extracted, shard_map, progress)
    scores = load_scores(scored)
    plain = _with_cut(recipe, tuple(rule for _, rule in rules), scores)
    return Chain(
        recipe,
        sampling,
        _ended([*extracted.shards, *scored[0].output.shards]),
        document_ids(scores[0]),
        plain,
        scores,
        decide(scores, plain),
        {
            "sample": records.fingerprint,
            "extract": extracted.fingerprint,
            **{each.label: each.output.fingerprint for each in scored},
        },
    )


def _with_cut(recipe: CurationRecipe, rules: tuple[Rule, ...], scores: Sequence[RuleScores]) -> tuple[Rule, ...]:
    """The rules, of which the last one's limit is the sample's quantile where the recipe keeps a share."""
    rule = recipe.share_rule
    if rule is None or rule.keep_share is None:
        return rules
    is_left = decide(scores[:-1], rules[:-1]).dropped_by < 0
    figures = scores[-1].figures[is_left, 0]
    counts = Counter(np.rint(figures[np.isfinite(figures)] * TICKS).astype(int).tolist())
    return (*rules[:-1], rule.at(lowest_kept(counts, rule.keep_share) / TICKS))


def _ended(shards: Sequence[Any]) -> dict[str, Outcome]:
    columns = ["record_id", "stage", "reason", "url"]
    return {
        row["record_id"]: Outcome(row["stage"], row["reason"], row["url"])
        for shard in shards
        for row in read_rows(shard / LEDGER_FILE, columns)
    }


@dataclass(frozen=True)
class Changed:
    """A record that is kept by one of two recipes and not by the other."""

    record_id: str
    url: str
    stage: str
    """Where the other recipe removes it, and why."""
    reason: str
    place: int
    """In the arrays of the recipe that removes it; -1: no rule was asked."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What changed settings change."""

    before: Chain
    settings: tuple[str, ...]
    gained: tuple[Changed, ...]
    lost: tuple[Changed, ...]
    scored_again: tuple[str, ...]
    """Steps whose results the settings change, so that they were not found: names as in `Chain.made_by`."""
    unseen: tuple[str, ...]
    """Parts of the recipe that are changed and decide nothing here."""


@dataclass(frozen=True, eq=False)
class Preview:
    """What a recipe does to a sample, and with changed settings, what it would do without."""

    chain: Chain
    comparison: Comparison | None

    @property
    def identity(self) -> str:
        """Of all that the preview shows."""
        before = self.comparison.before if self.comparison else None
        chains = [
            {"recipe": each.recipe, "made_by": dict(each.made_by), "sources": each.sampling.sources}
            for each in (self.chain, before)
            if each
        ]
        return fingerprint({"chains": chains, "code": code_version("tasks.preview")})


def compare(before: Chain, after: Chain, settings: Sequence[str]) -> Comparison:
    """What becomes of the same records by two recipes."""
    one, other = _kept(before), _kept(after)
    changed = [field for field in _UNSEEN if getattr(before.recipe, field, None) != getattr(after.recipe, field, None)]
    return Comparison(
        before,
        tuple(settings),
        _changes(before, other - one),
        _changes(after, one - other),
        tuple(name for name, made_by in after.made_by.items() if before.made_by.get(name) != made_by),
        tuple(changed),
    )


def _kept(chain: Chain) -> frozenset[str]:
    return frozenset(document_id for document_id, by in zip(chain.ids, chain.decided.dropped_by, strict=True) if by < 0)


def _changes(chain: Chain, record_ids: frozenset[str]) -> tuple[Changed, ...]:
    """Why `chain` removes these records."""
    changes = [
        Changed(record_id, outcome.url, outcome.stage, outcome.reason, -1)
        for record_id, outcome in chain.ended.items()
        if record_id in record_ids
    ]
    for place, document_id in enumerate(chain.ids):
        if document_id in record_ids:
            changes.append(Changed(document_id, "", *chain.reason(place), place))
    return tuple(sorted(changes, key=lambda change: (change.stage, change.reason, change.record_id)))


def preview(
    store: Store,
    sources: Sequence[str],
    recipe: CurationRecipe,
    shard_map: ShardMap,
    *,
    changed: CurationRecipe | None = None,
    settings: Sequence[str] = (),
    pages: int = DEFAULT_PAGES,
    seed: int = 0,
    progress: Progress = no_progress,
    step: Call = call,
) -> Preview:
    """Sample the sources, score the sample by `recipe`, and decide.

    `changed` is the recipe with `settings`, which is then what is shown, compared with the recipe as it is. Raises
    ValueError where a source can't be read.
    """
    refresh: SampledRefresh = step(
        "collect", plan_sample, store, sources, recipe, pages=pages, seed=seed, progress=progress
    )
    chain = score_chain(refresh, shard_map, progress, step)
    if changed is None:
        return Preview(chain, None)
    after = score_chain(with_recipe(refresh, changed), shard_map, progress, step)
    return Preview(after, compare(chain, after, settings))
