"""An evaluation for people: one row a measure, with its noise, what chance gives, how much of the task is in the
training corpus, and how it stands to other models; as lines for a terminal, as Markdown, as metrics, and the values of
every example as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.classifiers.csv_table import csv_table
from tasks.classifiers.proportion import Estimate, percent
from tasks.diff_report import printable
from tasks.evaluation.compare import Comparison
from tasks.evaluation.contaminated import ContaminatedTask
from tasks.evaluation.intervals import MIN_EXAMPLES
from tasks.evaluation.measures import BITS_PER_BYTE, Measure, ModelScores, centred
from tasks.markdown import markdown_cell, markdown_table

_COLUMNS = (
    "measure",
    "score",
    "95 % interval",
    "chance",
    "centred",
    "examples",
    "cut short",
    "contaminated",
    "without them",
)


@dataclass(frozen=True)
class ScoreRow:
    """One measure of a model."""

    name: str
    score: Estimate
    chance: float | None
    centred: float | None
    num_examples: int
    num_truncated: int = 0
    """Examples whose beginning was cut off, because the network reads fewer tokens."""
    contamination: ContaminatedTask | None = None
    """Of the task, where it was looked for."""
    clean: Estimate | None = None
    """The score on the examples that the training corpus has nothing of; None where all or none have."""
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    """By the other model's reference."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; None for what is no finite number."""
        row: dict[str, Any] = {
            "measure": self.name,
            "examples": self.num_examples,
            "cut_short": self.num_truncated,
        }
        row |= {"score": _finite(self.score.value), **_ends(self.score)}
        row |= {"chance": self.chance, "centred": self.centred}
        if self.contamination is not None:
            share = self.contamination.share
            row["contaminated"] = None if share is None else share.fraction
            row["score_without_contaminated"] = None if self.clean is None else _finite(self.clean.value)
        row["compared"] = {
            reference: {
                "score": _finite(comparison.theirs),
                "difference": _finite(comparison.difference.value),
                **_ends(comparison.difference),
                "told": comparison.told,
            }
            for reference, comparison in self.comparisons.items()
        }
        return row


def score_rows(
    scores: ModelScores,
    comparisons: Mapping[str, Mapping[str, Comparison]],
    contamination: Mapping[str, ContaminatedTask],
) -> list[ScoreRow]:
    """A row for each measure. `comparisons` by the other model's reference and the measure's name, `contamination` by
    `pack/task`."""
    rows = []
    for name, measure in scores.measures.items():
        score, chance = measure.estimate(), measure.chance
        if name == BITS_PER_BYTE:
            chance = scores.uniform.estimate().value
        is_share = isinstance(measure, Measure) and measure.is_share
        found = contamination.get(name.rpartition("/")[0])
        clean = None
        if found is not None and found.hit_ids and isinstance(measure, Measure):
            others = measure.without(found.hit_ids)
            clean = others.estimate() if others else None
        rows.append(
            ScoreRow(
                name=name,
                score=score,
                chance=chance,
                centred=centred(score, chance).value if is_share and chance is not None else None,
                num_examples=measure.num_examples,
                num_truncated=measure.num_truncated if isinstance(measure, Measure) else 0,
                contamination=found,
                clean=clean,
                comparisons={reference: found[name] for reference, found in comparisons.items()},
            )
        )
    return rows


def table_lines(rows: Sequence[ScoreRow]) -> list[str]:
    """The rows under their names, for a terminal: columns that hold nothing are left out."""
    columns, cells = _table(rows)
    widths = [max(len(row[place]) for row in (columns, *cells)) for place in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *cells)
    ]


def table_markdown(rows: Sequence[ScoreRow]) -> str:
    """The same for a page."""
    columns, cells = _table(rows)
    return markdown_table([markdown_cell(column) for column in columns], cells)


def table_records(rows: Sequence[ScoreRow]) -> list[dict[str, str]]:
    """The same for a table of Prefect's."""
    columns, cells = _table(rows)
    return [dict(zip(columns, row, strict=True)) for row in cells]


def _table(rows: Sequence[ScoreRow]) -> tuple[list[str], list[list[str]]]:
    others = list(dict.fromkeys(reference for row in rows for reference in row.comparisons))
    columns = [*_COLUMNS, *(f"less {printable(reference)}" for reference in others)]
    cells = [[*_cells(row), *(_compared(row.comparisons.get(reference)) for reference in others)] for row in rows]
    used = [place for place in range(len(columns)) if any(row[place] for row in cells)]
    return [columns[place] for place in used], [[row[place] for place in used] for row in cells]


def _cells(row: ScoreRow) -> tuple[str, ...]:
    return (
        printable(row.name),
        f"{row.score.value:.4f}",
        _interval(row.score),
        "" if row.chance is None else f"{row.chance:.4f}",
        "" if row.centred is None else f"{row.centred:+.4f}",
        f"{row.num_examples:,}",
        f"{row.num_truncated:,}" if row.num_truncated else "",
        "" if row.contamination is None else _contaminated(row.contamination),
        "" if row.clean is None else f"{row.clean.value:.4f}",
    )


def _contaminated(found: ContaminatedTask) -> str:
    if (share := found.share) is None:
        return "too short to search"
    return f"{percent(share.fraction)} ({percent(share.low)} to {percent(share.high)})"


def _compared(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{comparison.difference.value:+.4f} ({_interval(comparison.difference, '+')}): {comparison.told}"


def _interval(estimate: Estimate, sign: str = "") -> str:
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return f"fewer than {MIN_EXAMPLES} examples" if math.isfinite(estimate.value) else "unknown"
    return f"{estimate.low:{sign}.4f} to {estimate.high:{sign}.4f}"


def metric_values(rows: Sequence[ScoreRow]) -> dict[str, float]:
    """Every measure as metrics, with the ends of its interval under `_low` and `_high` where they are known, and the
    share of the task's examples that the training corpus has under `_contaminated`."""
    values: dict[str, float] = {}
    for row in rows:
        values[row.name] = row.score.value
        ends = {f"{row.name}_low": row.score.low, f"{row.name}_high": row.score.high}
        values |= {name: value for name, value in ends.items() if math.isfinite(value)}
        if row.contamination is not None and row.contamination.share is not None:
            values[f"{row.name}_contaminated"] = row.contamination.share.fraction
    return values


def examples_csv(models: Sequence[ModelScores]) -> str:
    """The value of every example of every measure, under each model: what the intervals were drawn from. The part of a
    task that an example belongs to is its file, of BLiMP a phenomenon.

    Of held-out text by document; slices are not said again. A value is the numerator over the denominator: right or
    wrong, bits over bytes, nats over one.
    """
    references = [model.reference for model in models]
    return csv_table(["measure", "example", "part", "denominator", *references], _example_rows(models))


def _example_rows(models: Sequence[ModelScores]) -> Iterator[list[str | float | None]]:
    for name, measure in models[0].measures.items():
        if not isinstance(measure, Measure) or name.startswith("held_out/"):
            continue
        columns = [model.measures.get(name) for model in models]
        for place, example in enumerate(measure.ids):
            values = [float(column.sums[0][place]) if isinstance(column, Measure) else None for column in columns]
            part = measure.parts[place] if measure.parts else ""
            yield [name, example, part, float(measure.sums[1][place]), *values]


def _ends(estimate: Estimate) -> dict[str, float | None]:
    return {"low": _finite(estimate.low), "high": _finite(estimate.high)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
