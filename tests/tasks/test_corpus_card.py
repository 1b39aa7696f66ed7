"""The card and the samples of a version, from a real refresh of pages that were made to be removed and to do harm."""

from __future__ import annotations

import gzip
import html
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.corpus_card import (
    SAMPLES_PER_RULE,
    Sample,
    corpus_card,
    corpus_facts,
    kept_samples,
    ledger_summary,
    removed_samples,
    samples_markdown,
)
from tasks.stages import StageOutput
from tests.data.prose import corpus_members, page, prose, warc_record
from tests.tasks.rendering import harmful_tags
from tests.tasks.test_curation import refresh_in_process, rows

NUM_PAGES = 44
HOSTILE = "<script>alert(1)</script> ![x](https://evil.example/x.png) [c](javascript:alert(1)) a|b `c` www.evil.example"


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, StageOutput]]:
    root = tmp_path_factory.mktemp("card")
    first = f"{HOSTILE} {prose('hostile')}"
    hostile = [
        warc_record("https://evil.example/kept|<b>.html", page(html.escape(first))),
        warc_record("https://evil.example/short.html", page(html.escape(f"{HOSTILE} {prose('short', 2)}"))),
    ]
    members = [*corpus_members(NUM_PAGES), *(gzip.compress(record, mtime=0) for record in hostile)]
    source = root / "pages.warc.gz"
    source.write_bytes(b"".join(members))
    return refresh_in_process(root / "store", source)


def texts(outputs: dict[str, StageOutput]) -> dict[str, tuple[Path, ...]]:
    return {
        "language": outputs["extract"].shards,
        "quality": outputs["language"].shards,
        "toxicity": outputs["quality"].shards,
        "exact_dedup": outputs["toxicity"].shards,
        "near_dedup": outputs["toxicity"].shards,
    }


def test_every_rule_that_removed_something_has_its_samples(
    refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]],
) -> None:
    path, manifest, outputs = refreshed
    samples = removed_samples(path, manifest, texts(outputs))
    counts = Counter((sample.stage, sample.reason) for sample in samples)
    assert counts == {
        (stage, reason): min(count, SAMPLES_PER_RULE)
        for stage, reasons in manifest["removed"].items()
        for reason, count in reasons.items()
    }
    ledger = {row["record_id"]: row for row in rows(path, "ledger")}
    for sample in samples:
        row = ledger[sample.record_id]
        assert row["outcome"] == "removed" and (sample.value, sample.threshold) == (row["value"], row["threshold"])
        assert sample.text  # every stage's input is still there


def test_a_duplicate_is_shown_with_its_survivor(
    refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]],
) -> None:
    path, manifest, outputs = refreshed
    documents = {row["document_id"]: row["text"] for row in rows(path, "documents")}
    copies = [s for s in removed_samples(path, manifest, texts(outputs)) if s.stage == "exact_dedup"]
    assert copies
    for sample in copies:
        assert sample.survivor_id and sample.survivor_text == documents[sample.survivor_id] == sample.text


def test_texts_that_were_cleared_away_are_said_to_be_gone(
    refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]], tmp_path: Path
) -> None:
    path, manifest, outputs = refreshed
    cleared = {stage: tuple(tmp_path / shard.name for shard in shards) for stage, shards in texts(outputs).items()}
    kept_one = outputs["language"].shards[0]
    shutil.copytree(kept_one, tmp_path / kept_one.name, dirs_exist_ok=True)
    samples = removed_samples(path, manifest, cleared)
    assert {sample.stage for sample in samples if sample.text is None} >= {"exact_dedup", "near_dedup"}
    assert "no text of it is in the store" in samples_markdown((), samples)


def test_nothing_of_a_page_is_mark_up(refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]]) -> None:
    path, manifest, outputs = refreshed
    samples = Sample("0-0", HOSTILE, "quality", HOSTILE, 1.0, 2.0, HOSTILE, "1-0", HOSTILE, HOSTILE)
    removed = (*removed_samples(path, manifest, texts(outputs)), samples)
    text = samples_markdown(kept_samples(path), removed) + corpus_card(path, manifest)
    assert not harmful_tags(text)


def test_the_card_holds_what_the_version_holds(
    refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]],
) -> None:
    path, manifest, _ = refreshed
    documents = rows(path, "documents")
    facts = corpus_facts(path)
    assert facts["languages"] == {"en": len(documents)}
    assert sum(facts["domains"].values()) == len(documents)
    assert facts["domains"]["site0.example"] == sum("site0" in row["url"] for row in documents)
    card = corpus_card(path, manifest)
    assert manifest["digest"] in card and f"**documents**: {len(documents):,}" in card
    assert f"{manifest['estimated_tokens']:,}" in card
    assert r"min\_words=50" in card
    assert "licences" in card and "pages" in card


def test_the_summary_of_the_ledger_adds_up(refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]]) -> None:
    path, manifest, _ = refreshed
    summary = ledger_summary(path)
    assert sum(row["records"] for row in summary) == manifest["records_in"]
    by_rule = {(row["stage"], row["reason"]): row for row in summary if row["outcome"] == "removed"}
    short = by_rule["quality", "too_few_sentences"]
    assert short["records"] == manifest["removed"]["quality"]["too_few_sentences"]
    values = [row["value"] for row in rows(path, "ledger") if row["reason"] == "too_few_sentences"]
    assert (short["min_value"], short["max_value"]) == (min(values), max(values))
