"""The scores of one rule on all documents of a sample, as arrays; and the texts behind them, when asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.language import LanguageRule
from tasks.preview.score import EXCERPT_CHARS, SCORES_FILE, ScoredRule
from tasks.rule import Rule


@dataclass(frozen=True)
class Excerpt:
    """What is shown of a document: as the rule read it."""

    document_id: str
    url: str
    language: str
    text: str
    """Its beginning."""
    chars: int


@dataclass(frozen=True, eq=False)
class RuleScores:
    """What a rule made of D documents, with K checks. Documents stand in the same order in the scores of every rule."""

    scored: ScoredRule
    figures: NDArray[np.float64]
    """(D, K); NaN where a check does not apply."""
    reasons: NDArray[np.object_]
    """(D,): why the rule drops the document whatever its limits; None where it does not."""
    languages: NDArray[np.object_]
    """(D,)."""
    chars_in: int
    chars_behind: int
    num_changed: int
    """Texts that the rule has changed."""

    @classmethod
    def load(cls, scored: ScoredRule) -> RuleScores:
        """Read what the stage wrote, but the texts."""
        columns = ["figures", "drop_reason", "language", "chars", "chars_behind", "is_changed"]
        table = pa.concat_tables(
            pq.read_table(shard / SCORES_FILE, columns=columns) for shard in scored.output.shards
        ).combine_chunks()
        num_checks = len(scored.checks)
        flat = table["figures"].combine_chunks().flatten() if len(table) else pa.array([], pa.float64())
        figures = np.asarray(flat.to_numpy(zero_copy_only=False), np.float64).reshape(len(table), num_checks)
        return cls(
            scored,
            figures,
            np.array(table["drop_reason"].to_pylist(), object),
            np.array(table["language"].to_pylist(), object),
            int(sum(table["chars"].to_pylist())),
            int(sum(table["chars_behind"].to_pylist())),
            int(sum(table["is_changed"].to_pylist())),
        )

    def limits(self, rule: Rule) -> NDArray[np.float64]:
        """The limit of each check by `rule`, which has this one's checks: (K,), or (D, K) where it differs."""
        if isinstance(rule, LanguageRule):
            of_language = {language: rule.min_score_of(language) for language in set(self.languages)}
            return np.array([[of_language[language]] for language in self.languages], np.float64).reshape(-1, 1)
        return np.array([rule.limit(check.threshold) for check in self.scored.checks], np.float64)

    def fails(self, limits: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(D, K): which checks drop which documents, each by itself."""
        failed = np.zeros(self.figures.shape, bool)
        for index, check in enumerate(self.scored.checks):
            limit = limits[..., index]
            with np.errstate(invalid="ignore"):
                below, above = self.figures[:, index] < limit, self.figures[:, index] > limit
            failed[:, index] = below if check.drops == "below" else above
        return failed

    @functools.cached_property
    def _ends(self) -> NDArray[np.int64]:
        rows = [pq.read_metadata(shard / SCORES_FILE).num_rows for shard in self.scored.output.shards]
        return np.cumsum(rows, dtype=np.int64)

    def excerpts(self, places: Iterable[int], hide: Callable[[str], str]) -> dict[int, Excerpt]:
        """The beginnings of the documents at these places; opens only the shards that they are in.

        `hide` leaves the length of a text as it is (`CurationRecipe.hide`).
        """
        by_shard: dict[int, list[int]] = {}
        for place in sorted(set(places)):
            by_shard.setdefault(int(np.searchsorted(self._ends, place, side="right")), []).append(place)
        found: dict[int, Excerpt] = {}
        columns = ["document_id", "url", "language", "excerpt", "chars"]
        for shard, inside in by_shard.items():
            start = int(self._ends[shard - 1]) if shard else 0
            table = pq.read_table(self.scored.output.shards[shard] / SCORES_FILE, columns=columns)
            for place, row in zip(inside, table.take([place - start for place in inside]).to_pylist(), strict=True):
                beginning = hide(row["excerpt"])[:EXCERPT_CHARS]
                found[place] = Excerpt(row["document_id"], row["url"], row["language"], beginning, row["chars"])
        return found


def document_ids(scores: RuleScores) -> list[str]:
    """Of all documents, in the order of the arrays."""
    shards = scores.scored.output.shards
    return [
        document_id
        for shard in shards
        for document_id in pq.read_table(shard / SCORES_FILE, columns=["document_id"])["document_id"].to_pylist()
    ]


def load_scores(scored: Sequence[ScoredRule]) -> tuple[RuleScores, ...]:
    """The scores of every rule of a recipe, in its order."""
    loaded = tuple(RuleScores.load(each) for each in scored)
    assert len({len(each.figures) for each in loaded}) == 1, "every rule scores every document"
    return loaded
