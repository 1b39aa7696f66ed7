"""What both recipes are measured on: pages that both keep, and that neither training has seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from flows.user_error import user_line
from tasks.ablation.held_out import page_key
from tasks.ablation.pages import HELD_OUT, EvaluationPages, evaluation_pages, text_groups
from tasks.ports import InProcessMap, ShardError
from tasks.store import Store
from tasks.tokenizer import is_held_out
from tests.data.prose import prose
from tests.tasks.ablation.two_corpora import FRACTION, make_version, pages, url
from tests.tasks.token_corpora import IdleMap


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def measured_on(
    store: Store, a: Mapping[str, str], b: Mapping[str, str], texts: Sequence[str] = (), max_pages: int = 1000
) -> EvaluationPages:
    corpora = [make_version(store, name, version) for name, version in (("a", a), ("b", b))]
    return evaluation_pages(store.work, corpora, texts, InProcessMap(), held_out_fraction=FRACTION, max_pages=max_pages)


def held_out(numbers: range) -> set[str]:
    return {url(number) for number in numbers if is_held_out(url(number), FRACTION)}


def table(file: Path, texts: Sequence[object]) -> str:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def test_the_held_out_pages_that_both_keep(store: Store) -> None:
    found = measured_on(store, pages(range(60)), pages(range(20, 80)))
    assert {text.page for text in found.texts()} == held_out(range(20, 60))
    counts = found.counts
    assert (counts.held_out_a, counts.held_out_b) == (len(held_out(range(60))), len(held_out(range(20, 80))))
    assert counts.kept_by_both == counts.chosen == len(held_out(range(20, 60))) > 5
    assert counts.with_two_texts == 0 and not found.seen


def test_a_page_whose_texts_differ_counts_with_both(store: Store) -> None:
    changed = min(held_out(range(40)))
    own = pages(range(40))
    there = measured_on(store, own, own | {changed: own[changed] + "\nIt goes on."})
    texts = {text.text for text in there.texts() if text.page == changed}
    assert texts == {own[changed], own[changed] + "\nIt goes on."}
    assert there.counts.with_two_texts == 1


def test_recipes_exchanged_are_measured_on_the_same(store: Store, tmp_path: Path) -> None:
    a, b = pages(range(50)), pages(range(30, 70)) | {url(31): "another text of the page, of some words"}
    there, back = measured_on(store, a, b), measured_on(Store.open(tmp_path / "other"), b, a)
    assert there.texts() == back.texts()


def test_a_larger_choice_contains_a_smaller_one(store: Store, tmp_path: Path) -> None:
    own = pages(range(80))
    few = measured_on(store, own, own, max_pages=4)
    more = measured_on(Store.open(tmp_path / "other"), own, own, max_pages=9)
    assert len(few.texts()) == 4 and len(more.texts()) == 9
    assert set(few.texts()) < set(more.texts())


def test_what_one_training_has_a_near_duplicate_of_is_left_out(store: Store) -> None:
    """As where b's deduplication lets through what a's removes."""
    own = pages(range(60))
    copied, *_ = sorted(held_out(range(60)))
    copy = next(url(number) for number in range(1000, 1100) if not is_held_out(url(number), FRACTION))
    found = measured_on(store, own, own | {copy: own[copied] + " Copied."})
    assert found.seen == {copied}
    assert copied not in {text.page for text in found.texts()}


def test_a_near_duplicate_that_is_held_out_as_well_is_no_matter(store: Store) -> None:
    own = pages(range(60))
    copied, *_ = sorted(held_out(range(60)))
    copy = next(url(number) for number in range(1000, 1100) if is_held_out(url(number), FRACTION))
    assert not measured_on(store, own, own | {copy: own[copied] + " Copied."}).seen


def test_texts_beside_the_pages(store: Store, tmp_path: Path) -> None:
    own = pages(range(40))
    trained = next(text for page, text in own.items() if not is_held_out(page, FRACTION))
    file = table(tmp_path / "wanted.jsonl", [prose("x", 6), prose("y", 6), prose("y", 6), " ", trained])
    found = measured_on(store, own, own, [file])
    wanted = [text for text in found.texts() if text.group == "wanted.jsonl"]
    assert sorted(text.text for text in wanted) == sorted([prose("x", 6), prose("y", 6)])
    assert len(found.seen) == 1
    assert {text.group for text in found.texts()} == {"wanted.jsonl", HELD_OUT}


def test_a_table_under_another_name_is_another_group(store: Store, tmp_path: Path) -> None:
    """Also where it stands in the place of one that was measured on before."""
    corpora = [make_version(store, "a", pages(range(20)))] * 2
    (tmp_path / "other").mkdir()

    def groups(*files: str) -> dict[str, set[str]]:
        found = evaluation_pages(
            store.work, corpora, files, InProcessMap(), held_out_fraction=FRACTION, max_pages=9
        ).texts()
        return {name: {text.text for text in found if text.group == name} for name in text_groups(files)}

    x, y = prose("x", 6), prose("y", 6)
    before = groups(table(tmp_path / "one.jsonl", [x]), table(tmp_path / "two.jsonl", [y]))
    after = groups(table(tmp_path / "other" / "two.jsonl", [x]), table(tmp_path / "other" / "one.jsonl", [y]))
    assert before == {"one.jsonl": {x}, "two.jsonl": {y}}
    assert after == {"one.jsonl": {y}, "two.jsonl": {x}}


def test_done_once(store: Store) -> None:
    own = pages(range(20))
    corpora = [make_version(store, "a", own)] * 2
    first, again = (
        evaluation_pages(store.work, corpora, [], shard_map, held_out_fraction=FRACTION, max_pages=9)
        for shard_map in (InProcessMap(), IdleMap())
    )
    assert first == again


def test_bad_texts_are_refused(store: Store, tmp_path: Path) -> None:
    own = pages(range(20))
    with pytest.raises(ShardError, match="row 2: its text is no string") as refusal:
        measured_on(store, own, own, [table(tmp_path / "numbers.jsonl", ["some words", 7])])
    assert user_line(refusal.value)  # not a fault of ours
    with pytest.raises(ValueError, match=r"two tables of texts are called t\.jsonl: rename one"):
        text_groups(["/x/t.jsonl", "/y/t.jsonl"])


def test_a_record_without_an_address_is_held_out_by_its_id() -> None:
    assert page_key("https://a.example/", "id-0") == "https://a.example/"
    assert page_key("", "id-0") == "id-0"
