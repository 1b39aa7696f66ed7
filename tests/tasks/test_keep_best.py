"""A share of a corpus: the same documents whatever the shards, a cut that is recorded and stays, and no wipe-out."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fastwarc.warc import ArchiveIterator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.curation import make_version, merge, publish, screen
from tasks.funnel import STAGES, funnel_rows
from tasks.manifest import read_manifest
from tasks.ports import InProcessMap
from tasks.preview.report import preview_html
from tasks.preview.run import preview
from tasks.quality_share import Cut
from tasks.recipes.curation import resolve_curation_recipe
from tasks.refresh import Refresh
from tasks.store import Store
from tasks.takedown import TakedownQuery
from tasks.wipe_out import WipeOutGuard
from tests.data.prose import prose
from tests.tasks.page_store import Row, add, refresh, row, table, take_down, urls
from tests.tasks.share_model import page_text, share_recipe, store_with_model

NUM_PAGES = 24
T = TypeVar("T")
R = TypeVar("R")


class InAnyOrder(InProcessMap):
    """Shards end in a seeded order, as with several workers."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        name: str,
        on_done: Callable[[int, R], None] | None = None,
    ) -> list[R]:
        order = random.Random(self._seed).sample(range(len(items)), len(items))
        results = {index: function(items[index]) for index in order}
        for index in order:
            if on_done is not None:
                on_done(index, results[index])
        return [results[index] for index in range(len(items))]


def rows(start: int, end: int) -> list[Row]:
    """Pages by their seeds, each with a score of its own; every eighth is too short for the rule before."""
    texts = [prose(seed, 1) if seed % 8 == 7 else page_text(seed, seed * 7 % NUM_PAGES) for seed in range(start, end)]
    return [row(text, f"https://site{seed % 3}.example/{seed}") for seed, text in enumerate(texts, start)]


@pytest.fixture(scope="module")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    return store_with_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def fresh(modelled: tuple[Store, str], tmp_path: Path) -> tuple[Store, str]:
    """An empty store that has the model."""
    store = Store.open(tmp_path / "store")
    store.models.symlink_to(modelled[0].models)
    return store, modelled[1]


def share_rows(store: Store, reference: str) -> list[dict[str, Any]]:
    return [one for one in table(store, reference, "ledger") if one["stage"] == "share"]


def test_the_best_are_kept_and_every_other_document_says_why_not(fresh: tuple[Store, str]) -> None:
    store, model = fresh
    manifest = add(store, "web", rows(0, NUM_PAGES), recipe=share_recipe(model, 0.3))
    cut = Cut.model_validate(manifest["quality_share"])
    assert (cut.keep_share, cut.version, cut.num_texts) == (0.3, 1, 21)  # three were too short to be scored
    assert cut.num_kept == 7 == manifest["documents_kept"]  # .3 of 21, rounded up
    assert manifest["removed"] == {"quality": {"gopher_short_doc": 3}, "share": {"quality": 14}}
    removed = share_rows(store, "web@1")
    assert len(removed) == 14
    for one in removed:
        assert (one["outcome"], one["reason"], one["threshold"]) == ("removed", "quality", cut.min_score)
        assert 0 <= one["value"] < cut.min_score
    assert [stage for stage, *_ in funnel_rows(manifest["removed"])] == ["quality", "share"]
    assert STAGES.index("toxicity") < STAGES.index("share")


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shard_records=st.integers(3, 30),
    num_files=st.integers(1, 4),
    seed=st.integers(0, 99),
    keep_share=st.sampled_from([0.05, 0.3, 0.62]),
)
def test_the_same_documents_are_kept_whatever_the_shards_their_order_and_the_workers(
    modelled: tuple[Store, str],
    tmp_path_factory: pytest.TempPathFactory,
    shard_records: int,
    num_files: int,
    seed: int,
    keep_share: float,
) -> None:
    store, model = Store.open(tmp_path_factory.mktemp("shards") / "store"), modelled[1]
    store.models.symlink_to(modelled[0].models)
    pages = rows(0, NUM_PAGES)
    whole = add(store, "whole", pages, recipe=share_recipe(model, keep_share))
    source = store.root.parent / "parts-pages"
    source.mkdir()
    random.Random(seed).shuffle(pages)
    for number in range(num_files):
        lines = "".join(f"{json.dumps(one)}\n" for one in pages[number::num_files])
        (source / f"{number}.jsonl").write_text(lines)
    recipe = share_recipe(model, keep_share, shard_records=shard_records)
    plan = Refresh.plan(store, "parts", [str(source)], recipe)
    parted = make_version(plan, InAnyOrder(seed))[1]
    facts = ("min_score", "num_texts", "num_kept")
    assert [whole["quality_share"][name] for name in facts] == [parted["quality_share"][name] for name in facts]
    assert urls(store, "whole") == urls(store, "parts")


def test_another_share_computes_no_score_again(fresh: tuple[Store, str]) -> None:
    store, model = fresh
    add(store, "web", rows(0, NUM_PAGES), recipe=share_recipe(model, 0.3))
    plan = Refresh.plan(store, "web", [str(store.root.parent / "web-pages")], share_recipe(model, 0.5))
    assert plan.mode_reason == "everything again: the quality rules changed"
    outputs = screen(plan, InProcessMap()).outputs
    assert [name for name, output in outputs.items() if not output.reused] == ["share"]
    scores = read_manifest(plan.stages["share_scores"].directory(store.work))
    assert scores is not None and scores["own_fingerprint"] == plan.stages["share_scores"].own_fingerprint
    assert outputs["share"].report.kept == 11  # half of 21, rounded up


def test_what_comes_onto_a_version_is_decided_by_its_cut(fresh: tuple[Store, str]) -> None:
    store, model = fresh
    recipe = share_recipe(model, 0.5)
    first = add(store, "web", rows(0, 8), recipe=recipe)
    kept_first = urls(store, "web@1")
    second = add(store, "web", rows(8, NUM_PAGES), recipe=recipe)
    cut, before = Cut.model_validate(second["quality_share"]), Cut.model_validate(first["quality_share"])
    assert (cut.min_score, cut.version, cut.num_texts, cut.num_kept) == (before.min_score, 1, 7, 4)
    assert second["mode"] == f"onto web@1, with the cut at a score of {before.min_score:.4f}, found for version 1"
    assert kept_first <= urls(store, "web@2")
    decided = [one["value"] for one in share_rows(store, "web@2")]
    assert decided and all(value < cut.min_score for value in decided)
    assert cut.num_texts_since == 14
    assert cut.num_kept_since == len(urls(store, "web@2") - kept_first)
    assert second["documents_kept"] == 4 + cut.num_kept_since


def test_a_version_that_is_made_again_has_a_cut_of_its_own_once(fresh: tuple[Store, str]) -> None:
    store, model = fresh
    recipe = share_recipe(model, 0.5)
    add(store, "web", rows(0, 8), recipe=recipe)
    add(store, "web", rows(8, NUM_PAGES), recipe=recipe)
    source = [str(store.root.parent / "web-pages")]
    assert Refresh.plan(store, "web", source, recipe).is_published  # the same files and the same cut: no change
    assert not Refresh.plan(store, "web", source, recipe, replace=True).is_published
    third = refresh(store, "web", recipe=recipe, replace=True)
    cut = Cut.model_validate(third["quality_share"])
    assert (cut.version, cut.num_texts, cut.num_kept, cut.num_texts_since) == (3, 21, 11, 0)
    assert third["documents_kept"] == 11
    at_once = add(store, "other", rows(0, NUM_PAGES), recipe=recipe)
    assert urls(store, "web@3") == urls(store, "other") and at_once["quality_share"]["num_kept"] == 11
    for replace_all in (False, True):
        assert Refresh.plan(store, "web", source, recipe, replace=replace_all).is_published


def test_a_takedown_keeps_the_cut(fresh: tuple[Store, str]) -> None:
    store, model = fresh
    first = add(store, "web", rows(0, NUM_PAGES), recipe=share_recipe(model, 0.5))
    gone = min(urls(store, "web@1"))
    second = take_down(store, "web", TakedownQuery(urls=(gone,)))
    assert second["quality_share"] == first["quality_share"]
    assert urls(store, "web@2") == urls(store, "web@1") - {gone}
    assert share_rows(store, "web@2") == share_rows(store, "web@1")


def test_a_first_version_without_documents_leaves_the_cut_to_the_next(fresh: tuple[Store, str]) -> None:
    store, model = fresh
    recipe = share_recipe(model, 0.5)
    first = add(store, "web", [row(prose(1, 1), "https://site.example/short")], recipe=recipe)
    assert (first["quality_share"]["num_texts"], first["mode"]) == (0, "the first version")
    second = add(store, "web", rows(0, 8), recipe=recipe)
    assert second["mode"] == "onto web@1"
    assert (second["quality_share"]["version"], second["quality_share"]["num_kept"]) == (2, 4)


def test_a_wanted_share_is_no_wipe_out_and_what_other_stages_remove_still_is_one(fresh: tuple[Store, str]) -> None:
    store, model = fresh
    guard = WipeOutGuard(max_removed_fraction=0.5, min_documents=10)
    wanted = add(store, "web", rows(0, NUM_PAGES), recipe=share_recipe(model, 0.04, guard=guard))
    assert wanted["documents_kept"] == 1 and wanted["wipe_outs"] == []
    short = [row(prose(seed, 1), f"https://site.example/{seed}") for seed in range(NUM_PAGES)]
    with pytest.raises(ValueError, match="quality removed 24 of 24 documents"):
        add(store, "short", short, recipe=share_recipe(model, 0.04, guard=guard))


def test_publishing_without_the_share_that_was_asked_for_is_a_fault(fresh: tuple[Store, str]) -> None:
    store, model = fresh
    add(store, "web", rows(0, 8), recipe=share_recipe(model, 0.5))
    plan = Refresh.plan(store, "web", [str(store.root.parent / "web-pages")], share_recipe(model, 0.4))
    screened = screen(plan, InProcessMap())
    without = replace(screened, outputs=screened.guarded)
    merged = merge(plan, without, InProcessMap())
    with pytest.raises(AssertionError, match="nobody has called keep_best"):
        publish(plan, without, merged, InProcessMap())


def test_a_model_that_is_not_in_the_store_ends_the_refresh_before_it_begins(
    modelled: tuple[Store, str], tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "store")
    with pytest.raises(ValueError, match="is not in the store; bring it with"):
        add(store, "web", rows(0, 8), recipe=share_recipe(modelled[1], 0.5))
    assert not store.versions("web") and not store.work.exists()


def test_a_preview_takes_the_samples_quantile_for_the_limit(fresh: tuple[Store, str]) -> None:
    store, model = fresh
    recipe = share_recipe(model, 0.3)
    manifest = add(store, "web", rows(0, NUM_PAGES), recipe=recipe)
    other = share_recipe(model, 0.5)
    source = [str(store.root.parent / "web-pages")]
    shown = preview(store, source, recipe, InProcessMap(), changed=other, settings=["quality.keep_share=0.5"])
    assert shown.comparison is not None
    before, after = shown.comparison.before, shown.chain
    assert before.labels == ("language", "gopher_quality", "quality")
    assert before.decided.rules[-1].checks[0].limits == (manifest["quality_share"]["min_score"],)
    assert before.removed == manifest["removed"] and before.decided.kept == manifest["documents_kept"]
    assert after.decided.kept == 11 and shown.comparison.scored_again == ()
    assert len(shown.comparison.gained) == 4 and not shown.comparison.lost
    page = preview_html(shown)
    assert "probability that the text is good" in page and "removed by quality: quality" in page


@pytest.mark.verify
def test_real_pages_are_kept_by_share_and_more_of_them_by_the_same_cut(shared_data: Path, tmp_path: Path) -> None:
    store, recipe = Store.open(tmp_path / "store"), resolve_curation_recipe("dclm", {"num_buckets": "4"})
    source, waiting = tmp_path / "pages", tmp_path / "waiting"
    source.mkdir()
    waiting.mkdir()
    _halves(shared_data / "web" / "pages.warc.gz", source / "first.warc.gz", waiting / "second.warc.gz")
    assert recipe.share_rule is not None and recipe.share_rule.keep_share is not None
    manifests = []
    for _ in range(2):
        plan = Refresh.plan(store, "real", [str(source)], recipe)
        manifests.append(make_version(plan, InProcessMap())[1])
        for file in waiting.iterdir():
            file.rename(source / file.name)
    first, second = (Cut.model_validate(manifest["quality_share"]) for manifest in manifests)
    assert first.num_texts > 100 and first.num_kept == math.ceil(recipe.share_rule.keep_share * first.num_texts)
    assert (second.min_score, second.num_texts, second.num_kept) == (first.min_score, first.num_texts, first.num_kept)
    assert second.num_texts_since > 100 and 0.2 < second.num_kept_since / second.num_texts_since < 0.8
    left = second.num_texts + second.num_texts_since - second.num_kept - second.num_kept_since
    assert manifests[1]["removed"]["share"] == {"quality": left}
    assert manifests[1]["base"] == 1 and urls(store, "real@1") <= urls(store, "real@2")
    assert all(one["value"] < one["threshold"] == first.min_score for one in share_rows(store, "real@2"))


def _halves(archive: Path, first: Path, second: Path) -> None:
    """The archive's records in two files, each with the half of them."""
    with archive.open("rb") as file:
        starts = [record.stream_pos for record in ArchiveIterator(file, parse_http=False)]
        file.seek(0)
        middle = starts[len(starts) // 2]
        first.write_bytes(file.read(middle))
        second.write_bytes(file.read())


def test_counts_of_the_funnel_add_up(fresh: tuple[Store, str]) -> None:
    store, model = fresh
    manifest = add(store, "web", rows(0, NUM_PAGES), recipe=share_recipe(model, 0.3))
    removed = Counter({stage: sum(reasons.values()) for stage, reasons in manifest["removed"].items()})
    assert manifest["records_in"] == manifest["documents_kept"] + removed.total() == NUM_PAGES
