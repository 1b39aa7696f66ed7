"""What a training has seen under another URL: on the limit, one step over it, and put together from several pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.ablation.pages import evaluation_pages
from tasks.ablation.seen import MAX_SEEN_FRACTION
from tasks.ports import InProcessMap
from tasks.store import Store
from tasks.tokenizer import is_held_out
from tests.tasks.ablation.test_pages import table
from tests.tasks.ablation.two_corpora import FRACTION, make_version, pages, url

WORDS = [f"w{number}" for number in range(112)]  # 100 runs of 13
TRAINED, OTHER = [url(number) for number in range(60) if not is_held_out(url(number), FRACTION)][:2]


def left_out(folder: Path, text: str, added: dict[str, str]) -> bool:
    """Whether a text beside the pages is, where recipe b's documents end in those `added`."""
    folder.mkdir(exist_ok=True)
    store, own = Store.open(folder / "store"), pages(range(60))
    changed = own | {page: f"{own[page]} {ending}" for page, ending in added.items()}
    corpora = [make_version(store, name, texts) for name, texts in (("a", own), ("b", changed))]
    file = table(folder / "wanted.jsonl", [text])
    found = evaluation_pages(store.work, corpora, [file], InProcessMap(), held_out_fraction=FRACTION, max_pages=1000)
    assert len(found.seen) <= 1
    return bool(found.seen) and not any(each.group == "wanted.jsonl" for each in found.texts())


@pytest.mark.parametrize(("num_runs", "is_seen"), [(30, False), (31, True)])
def test_a_text_of_which_more_than_a_share_stands_in_training_text(
    tmp_path: Path, num_runs: int, is_seen: bool
) -> None:
    assert MAX_SEEN_FRACTION == 0.3
    part = " ".join(WORDS[20 : 20 + num_runs + 12])
    assert left_out(tmp_path, " ".join(WORDS), {TRAINED: f"He said: {part.upper()}!"}) is is_seen


def test_a_text_that_several_documents_have_in_parts(tmp_path: Path) -> None:
    first, second = " ".join(WORDS[:30]), " ".join(WORDS[60:90])  # 18 runs each
    assert not left_out(tmp_path / "one", " ".join(WORDS), {TRAINED: first})
    assert left_out(tmp_path / "both", " ".join(WORDS), {TRAINED: first, OTHER: second})


def test_what_stands_in_held_out_pages_is_no_training_text(tmp_path: Path) -> None:
    held_out = next(url(number) for number in range(60) if is_held_out(url(number), FRACTION))
    assert not left_out(tmp_path, " ".join(WORDS), {held_out: " ".join(WORDS)})


def test_a_whole_text_within_a_page_of_one_recipe(tmp_path: Path) -> None:
    short = " ".join(WORDS[:8])
    assert left_out(tmp_path / "a", short, {TRAINED: f"So {short}."})
    assert not left_out(tmp_path / "b", " ".join(WORDS[:7]), {TRAINED: " ".join(WORDS[:7])}), "too short to tell"
