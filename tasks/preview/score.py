"""What every rule makes of every document, whatever the rule's limits: one stage for each rule.

A rule is scored without its limits (each is infinitely far away), so its scores are found again whatever they are set
to. A changed setting that is no limit makes this rule's scores anew, and those of later rules only where the rule is a
formatter and changed a text: what a score depends on is the texts that the rule reads, not the rules before it.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from tasks.checks import Check, Score, checks_of, score_with
from tasks.document import Document, Drop, ShardReport
from tasks.language import LanguageRule
from tasks.manifest import file_sha256
from tasks.model_files import models_in
from tasks.ports import ShardMap
from tasks.rule import Rule
from tasks.screen import DOCUMENTS_FILE, LEDGER_FILE
from tasks.stages import Progress, Stage, StageOutput, no_progress, run_stage
from tasks.store import Store
from tasks.tables import LEDGER, TEXTS, TableWriter, clean, document_of, read_rows, text_row

SCORES_FILE = "scores.parquet"
EXCERPT_CHARS = 600
EXCERPT_MARGIN_CHARS = 200
"""Kept behind an excerpt and never shown, so that what has to be hidden is recognised across its end."""
SCORES = pa.schema(
    [
        ("document_id", pa.string()),
        ("url", pa.string()),
        ("language", pa.string()),
        ("figures", pa.list_(pa.float64())),  # one for each check; null where it does not apply
        ("drop_reason", pa.string()),  # what the rule drops whatever its limits; null: nothing
        ("excerpt", pa.string()),  # the beginning of the text that the rule read
        ("chars", pa.int64()),  # of that text
        ("chars_behind", pa.int64()),  # of the text behind the rule
        ("is_changed", pa.bool_()),
    ]
)


def _language_score(features: object) -> float | None:
    raise AssertionError("the score of a language is found by identifying it")


LANGUAGE_CHECK = Check(
    "language_score", "min_score", "below", _language_score, "probability of the language, as the model sees it"
)
"""Of documents in a wanted language; the others end there, whatever the limit."""


@dataclass(frozen=True)
class ScoredRule:
    """A rule of a recipe, and where its scores are."""

    label: str
    """Its kind; with a number where the recipe has several of a kind."""
    stage: str
    """Of the ledger: language, quality, toxicity, decontaminate or share."""
    rule: Rule
    checks: tuple[Check, ...]
    output: StageOutput


def checks(rule: Rule) -> tuple[Check, ...]:
    """The limits of a rule, in the order in which they are applied."""
    return (LANGUAGE_CHECK,) if isinstance(rule, LanguageRule) else checks_of(rule)


def limit_fields(rule: Rule) -> frozenset[str]:
    """The fields that are limits: changed, they need no new scores."""
    if isinstance(rule, LanguageRule):
        return frozenset({"min_score", "min_scores"})
    return frozenset(check.threshold for check in checks(rule))


def without_limits(rule: Rule) -> Rule:
    """The rule with every limit infinitely far away, on the side where nothing is dropped. It is not validated."""
    away = {check.threshold: -math.inf if check.drops == "below" else math.inf for check in checks(rule)}
    return rule.model_copy(update=away)


def score_shard(texts: Path, directory: Path, *, rule: Rule, models: Path | None = None) -> ShardReport:
    """Score every document in `texts` by a rule without limits; write its texts where the rule has changed one.

    A document in a language that is not wanted has a ledger row and goes no further; every other does. `models` is the
    store's folder.
    """
    num_changed = 0
    ended: Counter[str] = Counter()
    with (
        models_in(models),
        TableWriter(directory / SCORES_FILE, SCORES) as scores,
        TableWriter(directory / DOCUMENTS_FILE, TEXTS) as documents,
        TableWriter(directory / LEDGER_FILE, LEDGER) as ledger,
    ):
        score = _scorer(rule)
        for row in read_rows(texts / DOCUMENTS_FILE):
            document = document_of(row)
            scored, result = score(document)
            if isinstance(rule, LanguageRule) and scored.language not in rule.languages:
                assert result.drop is not None, "a language that is not wanted is why it is dropped"
                ended[f"language/{result.drop.reason}"] += 1
                ledger.write(_ended(scored, result.drop))
                continue
            text = clean(result.text)
            num_changed += text != document.text
            scores.write(_score_row(scored, result, text))
            documents.write(text_row(replace(scored, text=text)))
        num_scored = scores.num_rows
    if not (num_changed or isinstance(rule, LanguageRule)):
        (directory / DOCUMENTS_FILE).unlink()
    return ShardReport(num_scored + ended.total(), num_scored, dict(sorted(ended.items())), num_changed)


def _scorer(rule: Rule) -> Callable[[Document], tuple[Document, Score]]:
    """The rule's score of a document, and the document with what the rule finds out about it."""
    if not isinstance(rule, LanguageRule):
        score = score_with(rule)
        return lambda document: (document, score(document))
    judge = rule.build_judged()

    def judged(document: Document) -> tuple[Document, Score]:
        found = judge(document)
        return found.document, Score(found.document.text, (found.score,), found.drop)

    return judged


def _score_row(document: Document, score: Score, text: str) -> dict[str, object]:
    drop = score.drop
    if drop is None and not text.strip():
        drop = Drop("empty")  # as the stage does where a formatter leaves nothing
    return {
        "document_id": document.document_id,
        "url": document.url,
        "language": document.language,
        "figures": [None if value is None or math.isnan(value) else float(value) for value in score.figures],
        "drop_reason": drop.reason if drop else None,
        "excerpt": document.text[: EXCERPT_CHARS + EXCERPT_MARGIN_CHARS],
        "chars": len(document.text),
        "chars_behind": len(text),
        "is_changed": text != document.text,
    }


def _ended(document: Document, drop: Drop) -> dict[str, object]:
    facts = {name: getattr(document, name) for name in ("source", "source_file", "source_offset", "url")}
    return {
        "record_id": document.document_id,
        **facts,
        "stage": "language",
        "outcome": "removed",
        "reason": drop.reason,
        "value": drop.value,
        "threshold": drop.threshold,
        "detail": drop.detail,
        "survivor_id": None,
    }


def score_rules(
    store: Store,
    rules: Sequence[tuple[str, Rule]],
    documents: StageOutput,
    shard_map: ShardMap,
    progress: Progress = no_progress,
) -> tuple[ScoredRule, ...]:
    """Score `documents` by each of `rules` (by ledger stage), in order."""
    kinds = [str(getattr(rule, "kind", type(rule).__name__)) for _, rule in rules]
    labels = [
        kind if kinds.count(kind) == 1 else f"{kind} {kinds[: index + 1].count(kind)}"
        for index, kind in enumerate(kinds)
    ]
    texts, after = documents.shards, documents.fingerprint
    scored: list[ScoredRule] = []
    for label, kind, (stage_name, rule) in zip(labels, kinds, rules, strict=True):
        identity = {
            "rule": rule.model_dump(mode="json", exclude=set(limit_fields(rule))),
            "files": [[file.name, file_sha256(file)] for file in rule.files()],
        }
        stage = Stage(f"score_{kind}", identity, rule.libraries, (__name__, type(rule).__module__), after)
        output = run_stage(
            stage,
            store.work,
            shard_map,
            functools.partial(score_shard, rule=without_limits(rule), models=store.models),
            texts,
            inputs=[{"texts": shard.name} for shard in texts],
            progress=progress,
        )
        scored.append(ScoredRule(label, stage_name, rule, checks(rule), output))
        rewritten = [(shard if (shard / DOCUMENTS_FILE).is_file() else None) for shard in output.shards]
        if any(rewritten):
            after = output.fingerprint
        texts = tuple(new or old for new, old in zip(rewritten, texts, strict=True))
    return tuple(scored)
