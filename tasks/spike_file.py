"""`spikes.jsonl`: one line an event, and how people read it: a table in MLflow, Markdown on the flow run's page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.atomic import write_file
from tasks.markdown import markdown_address, markdown_cell, markdown_table
from tasks.spike_documents import SpikeRecord, SuspectDocument

SPIKES_FILE = "spikes.jsonl"

_SHOWN_DOCUMENTS = 10  # of an event, in Markdown
_SHOWN_EVENTS = 20  # the newest
_EVENT_COLUMNS = (
    "step",
    "loss",
    "usual_loss",
    "loss_z",
    "grad_norm",
    "usual_grad_norm",
    "grad_norm_z",
    "reasons",
    "policy",
    "step_taken",
)
_DOCUMENT_COLUMNS = ("rank", "document_id", "url", "source", "corpus", "tokens", "mean_loss", "excess_nats")


def append_spike(spikes_file: Path, record: SpikeRecord) -> None:
    """Add a record, durably. A resumed run meets its spikes again, and may do something else about them: of the same
    step and batch the last record counts."""
    records = {(each.step, each.batch_hash): each for each in read_spikes(spikes_file)}
    records[record.step, record.batch_hash] = record
    lines = [json.dumps(asdict(each), allow_nan=False) + "\n" for each in records.values()]
    write_file(spikes_file, "".join(lines).encode())


def read_spikes(spikes_file: Path) -> list[SpikeRecord]:
    """All records, in the order in which they came; none where there was no spike."""
    lines = spikes_file.read_text(encoding="utf-8").splitlines() if spikes_file.is_file() else []
    return [_record(json.loads(line)) for line in lines]


def _record(values: dict[str, Any]) -> SpikeRecord:
    documents = tuple(SuspectDocument(**document) for document in values["documents"])
    return SpikeRecord(**{**values, "reasons": tuple(values["reasons"]), "documents": documents})


def worst_document(records: Sequence[SpikeRecord]) -> str:
    """URL, else id, of the document that raised its batch's loss the most, one without a finite loss above all; empty
    where there are no records."""

    def excess(document: SuspectDocument) -> float:
        return math.inf if document.excess_nats is None else document.excess_nats

    worst = max((each for record in records for each in record.documents), key=excess, default=None)
    return (worst.url or worst.document_id) if worst else ""


def spikes_csv(records: Sequence[SpikeRecord]) -> str:
    """All events, one row a document: MLflow's page shows CSV as a table. A figure that is not finite is left empty."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow([*_EVENT_COLUMNS, *_DOCUMENT_COLUMNS])
    for record in records:
        for document in record.documents:
            table.writerow([*_event_cells(record), *(_cell(getattr(document, name)) for name in _DOCUMENT_COLUMNS)])
    return text.getvalue()


def _event_cells(record: SpikeRecord) -> list[Any]:
    cells = {name: _cell(getattr(record, name)) for name in _EVENT_COLUMNS}
    return list((cells | {"reasons": ", ".join(record.reasons)}).values())


def _cell(value: Any) -> Any:
    """Figures with as many digits as anybody reads."""
    return f"{value:.4g}" if isinstance(value, float) else value


def spikes_markdown(records: Sequence[SpikeRecord]) -> str:
    """The newest events with their first documents; what came from pages is escaped."""
    hidden = max(0, len(records) - _SHOWN_EVENTS)
    shown = [_event_markdown(record) for record in reversed(records[hidden:])]
    return "\n\n".join([*shown, *([f"{hidden} earlier events are in `{SPIKES_FILE}`."] if hidden else [])])


def _event_markdown(record: SpikeRecord) -> str:
    done = "the step was taken" if record.step_taken else "the step was not taken"
    facts = (
        f"Policy {record.policy}: {done}. Batch {markdown_cell(record.batch_hash)}: {record.num_sequences:,} sequences"
        f" of {record.num_documents:,} documents, at {record.tokens:,} tokens."
    )
    figures = markdown_table(
        ["", "at this step", "usual", "robust z"],
        [
            ("loss", _figure(record.loss), _figure(record.usual_loss, ""), _figure(record.loss_z, "", 1)),
            (
                "gradient norm",
                _figure(record.grad_norm),
                _figure(record.usual_grad_norm, ""),
                _figure(record.grad_norm_z, "", 1),
            ),
        ],
    )
    documents = markdown_table(
        ["", "loss", "excess nats", "tokens", "source", "URL", "document"],
        [
            (
                document.rank,
                _figure(document.mean_loss),
                _figure(document.excess_nats, digits=0),
                document.tokens,
                document.source,
                markdown_address(document.url),
                document.document_id,
            )
            for document in record.documents[:_SHOWN_DOCUMENTS]
        ],
    )
    title = f"### Step {record.step:,}: {' and '.join(_REASONS[each] for each in record.reasons)}"
    return "\n\n".join([title, facts, figures, documents])


_REASONS = {"not_finite": "not finite", "loss": "loss", "grad_norm": "gradient norm"}


def _figure(value: float | None, absent: str = "not finite", digits: int = 3) -> str:
    return absent if value is None else f"{value:,.{digits}f}"
