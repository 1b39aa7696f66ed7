"""The card and the samples of a version, from a real refresh of pages that were made to be removed and to do harm."""

from __future__ import annotations

import gzip
import html
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.corpus_card import (
    MEMBERS_PER_CLUSTER,
    NUM_CLUSTERS,
    SAMPLES_PER_RULE,
    Sample,
    corpus_card,
    corpus_facts,
    kept_samples,
    largest_clusters,
    ledger_summary,
    removed_samples,
    samples_markdown,
)
from tasks.markdown import markdown_cell
from tasks.quality_share import Cut
from tasks.stages import StageOutput
from tests.data.prose import corpus_members, page, prose, warc_record, write_jsonl
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
        warc_record("https://evil.example/copy|<i>.html", page(html.escape(first))),
        warc_record("https://evil.example/short.html", page(html.escape(f"{HOSTILE} {prose('short', 2)}"))),
    ]
    members = [*corpus_members(NUM_PAGES), *(gzip.compress(record, mtime=0) for record in hostile)]
    source = root / "pages.warc.gz"
    source.write_bytes(b"".join(members))
    return refresh_in_process(root / "store", source)


def work(path: Path) -> Path:
    """Where the store of a version has its stages' outputs."""
    return path.parents[2] / "work"


def test_every_rule_that_removed_something_has_its_samples(
    refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]],
) -> None:
    path, manifest, _ = refreshed
    samples = removed_samples(path, manifest, work(path), str)
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
    hidden = removed_samples(path, manifest, work(path), lambda text: "█" * len(text))
    assert [set(sample.text or "") for sample in hidden] == [{"█"}] * len(samples)


def test_a_duplicate_is_shown_with_its_survivor(
    refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]],
) -> None:
    path, manifest, _ = refreshed
    documents = {row["document_id"]: row["text"] for row in rows(path, "documents")}
    copies = [s for s in removed_samples(path, manifest, work(path), str) if s.stage == "exact_dedup"]
    assert copies
    for sample in copies:
        assert sample.survivor_id and sample.survivor_text == documents[sample.survivor_id] == sample.text


def test_texts_that_were_cleared_away_are_said_to_be_gone(
    refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]], tmp_path: Path
) -> None:
    path, manifest, _ = refreshed
    samples = removed_samples(path, manifest, tmp_path / "cleared", str)
    assert {sample.stage for sample in samples if sample.text is None} == {"quality"}
    assert {sample.stage for sample in samples if sample.text} == {"exact_dedup", "near_dedup"}  # in the version itself
    assert "no text of it is in the store" in samples_markdown((), samples)


def test_what_was_taken_down_is_not_shown(refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]]) -> None:
    path, manifest, _ = refreshed
    hidden = {"kind": "domain", "value": "site1.example", "scope": "cluster", "reason": "", "date": ""}
    samples = removed_samples(path, {**manifest, "tombstones": [hidden]}, work(path), str)
    by_domain = {is_hidden: [s for s in samples if ("site1" in s.url) == is_hidden] for is_hidden in (True, False)}
    assert by_domain[True] and not any(sample.text for sample in by_domain[True])
    assert by_domain[False] and all(sample.text for sample in by_domain[False])


def test_the_largest_clusters_are_shown_with_texts_of_survivor_and_others(
    refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]],
) -> None:
    path, manifest, _ = refreshed
    documents = {row["document_id"]: row for row in rows(path, "documents")}
    ledger = {row["record_id"]: row for row in rows(path, "ledger")}
    clusters = largest_clusters(path, manifest)
    sizes = sorted((row["cluster_size"] for row in documents.values() if row["cluster_size"] > 1), reverse=True)
    assert [cluster.num_documents for cluster in clusters] == sizes[:NUM_CLUSTERS]
    assert len(sizes) == manifest["clusters"]["num_clusters"]
    for cluster in clusters:
        survivor = documents[cluster.cluster_id]
        others = [row for row in ledger.values() if row["survivor_id"] == cluster.cluster_id]
        assert (cluster.url, cluster.text) == (survivor["url"], survivor["text"])
        assert cluster.num_documents == survivor["cluster_size"] == 1 + len(others)
        assert {url for url, _ in cluster.members} <= {row["url"] for row in others}
        assert len(cluster.members) == min(len(others), MEMBERS_PER_CLUSTER) and all(
            text for _, text in cluster.members
        )
    assert "evil.example" in corpus_card(path, manifest)


def test_nothing_of_a_page_is_mark_up(refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]]) -> None:
    path, manifest, _ = refreshed
    samples = Sample("0-0", HOSTILE, "quality", HOSTILE, 1.0, 2.0, HOSTILE, "1-0", HOSTILE, HOSTILE)
    removed = (*removed_samples(path, manifest, work(path), str), samples)
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


def test_the_card_names_the_models_and_the_cut(
    refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]],
) -> None:
    path, manifest, _ = refreshed
    card = corpus_card(path, manifest)
    assert manifest["models"] and all(markdown_cell(model) in card for model in manifest["models"])
    assert "best share" not in card
    cut = Cut(min_score=0.4321, keep_share=0.125, version=1, inputs="", num_texts=3000, num_kept=375)
    said = markdown_cell("12.5% was asked for: the cut at a score of 0.4321, found for version 1, kept 375 of 3,000")
    assert said in corpus_card(path, {**manifest, "quality_share": cut.model_dump()})
    later = cut.with_more({4320: 30, 4321: 10})
    assert "and 10 of 40 that have come since" in corpus_card(path, {**manifest, "quality_share": later.model_dump()})


def test_a_version_without_duplicates_has_a_card(tmp_path: Path) -> None:
    path, manifest, _ = refresh_in_process(tmp_path / "store", write_jsonl(tmp_path / "rows.jsonl", 3))
    assert manifest["documents_kept"] == 3 and largest_clusters(path, manifest) == ()
    assert "Every document stands for itself alone." in corpus_card(path, manifest)


def test_the_summary_of_the_ledger_adds_up(refreshed: tuple[Path, dict[str, Any], dict[str, StageOutput]]) -> None:
    path, manifest, _ = refreshed
    summary = ledger_summary(path)
    assert sum(row["records"] for row in summary) == manifest["records_in"]
    by_rule = {(row["stage"], row["reason"]): row for row in summary if row["outcome"] == "removed"}
    short = by_rule["quality", "too_few_sentences"]
    assert short["records"] == manifest["removed"]["quality"]["too_few_sentences"]
    values = [row["value"] for row in rows(path, "ledger") if row["reason"] == "too_few_sentences"]
    assert (short["min_value"], short["max_value"]) == (min(values), max(values))
