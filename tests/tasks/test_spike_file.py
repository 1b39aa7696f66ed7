"""The file of spikes, and how people see it: nothing of a page's address becomes mark-up."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tasks.spike_documents import SuspectDocument
from tasks.spike_file import SPIKES_FILE, append_spike, read_spikes, spikes_csv, spikes_markdown, worst_document
from tests.tasks.spike_records import HOSTILE, RECORD, suspect

NOT_FINITE = replace(
    RECORD,
    step=9,
    batch_hash="ffff",
    loss=None,
    usual_loss=None,
    usual_grad_norm=None,
    loss_z=None,
    grad_norm_z=None,
    reasons=("not_finite",),
    documents=(replace(suspect(1), mean_loss=None, excess_nats=None),),
)


def test_records_come_back_as_they_were_written(tmp_path: Path):
    file = tmp_path / SPIKES_FILE
    assert read_spikes(file) == []
    append_spike(file, RECORD)
    append_spike(file, NOT_FINITE)
    assert read_spikes(file) == [RECORD, NOT_FINITE]
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1_234, 9]


def test_a_spike_that_a_resumed_run_meets_again_is_one_record(tmp_path: Path):
    file = tmp_path / SPIKES_FILE
    for record in (RECORD, NOT_FINITE, RECORD):
        append_spike(file, record)
    assert read_spikes(file) == [RECORD, NOT_FINITE]
    other_policy = replace(RECORD, policy="skip", step_taken=False)
    append_spike(file, other_policy)
    assert read_spikes(file) == [other_policy, NOT_FINITE]
    other_data = replace(RECORD, batch_hash="after a rollback")
    append_spike(file, other_data)
    assert read_spikes(file)[-1] == other_data


def test_what_is_no_number_is_refused_rather_than_written(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        append_spike(tmp_path / SPIKES_FILE, replace(RECORD, learning_rate=math.nan))
    assert read_spikes(tmp_path / SPIKES_FILE) == []


def test_the_table_has_a_row_for_every_document():
    rows = list(csv.DictReader(io.StringIO(spikes_csv([RECORD, NOT_FINITE]))))
    assert [(row["step"], row["rank"], row["document_id"]) for row in rows] == [
        ("1234", "1", "id-1"),
        ("1234", "2", "id-2"),
        ("9", "1", "id-1"),
    ]
    assert rows[0]["reasons"] == "loss, grad_norm" and rows[0]["mean_loss"] == "11.5" and rows[2]["loss"] == ""
    figures = ("loss", "usual_loss", "loss_z", "grad_norm")
    assert [float(rows[0][name]) for name in figures] == pytest.approx(
        [getattr(RECORD, name) for name in figures], rel=1e-3
    )
    assert rows[0]["step_taken"] == str(RECORD.step_taken)
    assert list(csv.DictReader(io.StringIO(spikes_csv([])))) == []


def test_what_comes_from_a_page_stays_in_its_cell():
    (row,) = csv.DictReader(io.StringIO(spikes_csv([replace(RECORD, documents=(replace(suspect(1), url=HOSTILE),))])))
    assert row["url"] == HOSTILE


def test_the_newest_events_are_shown_first_with_their_figures():
    markdown = spikes_markdown([NOT_FINITE, RECORD])
    assert markdown.index("Step 1,234") < markdown.index("Step 9")
    for piece in ("loss and gradient norm", "5.250", "2.000", "41.0", "the step was not taken", "id-1", "2,375"):
        assert piece in markdown
    assert "not finite" in markdown


@pytest.mark.parametrize(("num_events", "said"), [(20, False), (21, True)])
def test_many_events_are_cut(num_events: int, said: bool):
    markdown = spikes_markdown([replace(RECORD, step=step) for step in range(num_events)])
    assert markdown.count("### Step") == 20
    assert ("1 earlier events are in" in markdown) is said


def test_nothing_from_a_page_becomes_markup():
    hostile = SuspectDocument(1, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1, 1.0, 1.0)
    html = MarkdownIt("commonmark").enable("table").render(spikes_markdown([replace(RECORD, documents=(hostile,))]))
    for mark in ("<img", "<a ", "<em>", "<h1"):
        assert mark not in html
    assert html.count("<code>") == 1  # the address, all of it
    assert html.count("<table>") == 2 and html.count("<h3>") == 1
    assert html.count("<tr>") == 3 + 2  # the figures, and one document


def test_the_worst_document_is_of_all_records_and_one_without_a_loss_above_all():
    worse = replace(RECORD, documents=(suspect(1), replace(suspect(2, "http://worse.example"), excess_nats=9_000.0)))
    assert worst_document([]) == ""
    assert worst_document([worse, RECORD]) == "http://worse.example"
    no_url = replace(NOT_FINITE, documents=(replace(suspect(7, ""), excess_nats=None),))
    assert worst_document([worse, no_url, RECORD]) == "id-7"
