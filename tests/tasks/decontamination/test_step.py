"""The rule: what goes, what stays, what is said of it; and settings that cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.decontamination.index import ExampleIndex
from tasks.decontamination.removal import removals, stretches
from tasks.decontamination.sought import Sought, sought_in_texts
from tasks.decontamination.step import Decontamination
from tasks.decontamination.words import words_of
from tasks.document import Document, Drop, Edit, Keep, Rewrite
from tasks.evaluation.task_pack import PACKS, load_pack
from tasks.formatters.edits import apply_edits
from tests.data.prose import prose

EXAMPLE = "Nobody had told the carpenter which of the seven lanterns belonged to the island school"
OTHER = "Under the third bridge a quiet clerk was counting the broken boats until the morning"


def texts_file(folder: Path, *texts: str, name: str = "mine.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return texts_file(tmp_path, EXAMPLE, OTHER)


def ids(file: Path) -> list[str]:
    return [each.example_id for each in sought_in_texts([file])]


def test_exactly_what_is_in_an_example_goes(file: Path, document: Callable[..., Document]) -> None:
    before, after = prose(1), prose(2)
    text = f'{before}\n\nHe read: "{EXAMPLE.upper()}!" {after}'
    decision = Decontamination(texts=(str(file),)).build()(document(text))
    assert isinstance(decision, Rewrite)
    assert decision.text == f"{before}\n\nHe read: {after}"
    start = text.index(' "NOBODY')
    removed = f' "{EXAMPLE.upper()}!"'
    assert decision.edits == (Edit("span_removed", f"mine.jsonl {ids(file)[0]}", start, removed),)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("one\n{}\ntwo", "one\ntwo"),
        ("one {} two", "one two"),
        ("one\n\n{}.", "one"),
        ("{}; one", "one"),
        ("one ({}) two\n{}\nthree", "one two\nthree"),
        ("one-{}-two", "one--two"),
        ("one {} {} two", "one two"),
    ],
)
def test_what_stays_is_neither_glued_together_nor_torn_apart(
    text: str, left: str, file: Path, document: Callable[..., Document]
) -> None:
    rule = Decontamination(texts=(str(file),), max_removed_fraction=1.0)
    decision = rule.build()(document(text.replace("{}", EXAMPLE)))
    assert isinstance(decision, Rewrite) and decision.text == left


def test_each_stretch_is_an_edit_and_names_all_that_are_in_it(
    tmp_path: Path, document: Callable[..., Document]
) -> None:
    part = " ".join(EXAMPLE.split()[:13])
    file = texts_file(tmp_path, *(f"{part} {ending}" for ending in ("a", "b", "c", "d")), OTHER)
    decision = Decontamination(texts=(str(file),)).build()(document(f"{prose(1)} {OTHER}. {prose(2)} {part}."))
    assert isinstance(decision, Rewrite)
    names = sorted(ids(file)[:4])
    assert [edit.reason for edit in decision.edits] == [
        f"mine.jsonl {ids(file)[4]}",
        f"mine.jsonl {names[0]}, mine.jsonl {names[1]}, mine.jsonl {names[2]} and 1 more",
    ]


def test_a_document_can_be_dropped_instead(file: Path, document: Callable[..., Document]) -> None:
    decide = Decontamination(texts=(str(file),), action="drop").build()
    name = f"mine.jsonl {ids(file)[0]}"
    assert decide(document(f"{prose(1)} {EXAMPLE}")) == Drop("contaminated", detail=name)
    assert decide(document(prose(1))) == Keep()
    assert decide(document(" \n")) == Drop("empty")


def test_one_that_is_examples_for_more_than_the_limit_is_dropped(file: Path, document: Callable[..., Document]) -> None:
    num_words = len(EXAMPLE.split())
    decide = Decontamination(texts=(str(file),), max_removed_fraction=0.5).build()
    on_limit = " ".join([EXAMPLE, *["x"] * num_words])
    assert isinstance(decide(document(on_limit)), Rewrite)
    over = on_limit.removesuffix(" x")
    share = num_words / (2 * num_words - 1)
    assert decide(document(over)) == Drop("contaminated_share", share, 0.5, f"mine.jsonl {ids(file)[0]}")
    decide_all = Decontamination(texts=(str(file),), max_removed_fraction=1.0).build()
    assert decide_all(document(f"  {EXAMPLE}.  ")) == Drop("empty")


def test_off_it_keeps_everything(document: Callable[..., Document]) -> None:
    rule = Decontamination()
    assert not rule.is_on and rule.files() == () and rule.looked_for() == {}
    assert rule.build()(document(EXAMPLE)) == Keep()


words = st.sampled_from(["a", "b", "C", "d.", "(e", "\n", " ", "-", "é"])


@given(st.lists(words, max_size=12), st.lists(words, max_size=40), st.sampled_from([" ", "", "\n"]))
def test_of_any_text_the_other_words_stay_in_order(example: list[str], text: list[str], joint: str) -> None:
    index = ExampleIndex([Sought("own/task", "0", (" ".join(example),))], ngram_words=4, min_words=2)
    whole = joint.join(text)
    found = index.find(whole)
    edits = removals(whole, stretches(index, found))
    left = apply_edits(whole, edits)
    gone = {place for each in found for place in range(each.first_word, each.first_word + each.num_words)}
    assert words_of(left) == [word for place, word in enumerate(words_of(whole)) if place not in gone]
    assert all(edit.removed for edit in edits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"texts": ["mine.jsonl"]}, "'mine.jsonl' has to be a whole path"),
        ({"packs": ["folder/pack"]}, "'folder/pack' has to be a whole path"),
        ({"packs": ["basics=data"]}, "'basics=data' has to be a whole path"),
        ({"packs": [""]}, "'' has to be a whole path"),
        ({"min_words": 14}, "min_words=14 is more than ngram_words=13; lower it"),
        ({"action": "hide"}, "remove_span"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Decontamination.model_validate(settings)


def test_what_is_looked_for_is_known_by_hashes_and_each_name_stands_for_one(tmp_path: Path) -> None:
    pack = tmp_path / "copy"
    shutil.copytree(PACKS / "basics", pack)
    mine = texts_file(tmp_path, EXAMPLE)
    there = Decontamination(packs=(str(pack),), texts=(str(mine),))
    assert there.looked_for() == Decontamination(packs=("basics",), texts=(str(mine),)).looked_for()
    assert there.looked_for()["basics"] == load_pack("basics").sha256
    assert {file.name for file in there.files()} >= {"pack.yaml", "agreement.jsonl", "mine.jsonl"}
    before = there.looked_for()
    texts_file(tmp_path, OTHER)
    assert there.looked_for() != before
    with pytest.raises(ValueError, match="decontamination has basics twice; name it once"):
        Decontamination(packs=("basics", str(pack))).looked_for()
    with pytest.raises(ValueError, match=r"there is no task pack '/nowhere/pack'"):
        Decontamination(packs=("/nowhere/pack",)).looked_for()


def test_single_tasks_of_a_pack(tmp_path: Path, document: Callable[..., Document]) -> None:
    rule = Decontamination(packs=("basics:agreement",), max_removed_fraction=1.0)
    assert rule.looked_for()["basics"] != Decontamination(packs=("basics",)).looked_for()["basics"]
    assert [file.name for file in rule.files()] == ["pack.yaml", "agreement.jsonl"]
    sentence = json.loads((PACKS / "basics" / "agreement.jsonl").read_text().splitlines()[0])["good"]
    assert isinstance(rule.build()(document(f"First this. {sentence} Then that.")), Rewrite)
    with pytest.raises(ValueError, match="the pack basics has no task 'agreemnt'"):
        Decontamination(packs=("basics:agreemnt",)).looked_for()


@pytest.mark.parametrize("texts", [["too short"], [f"{EXAMPLE} {number}" for number in range(2)]])
def test_what_nothing_of_could_be_looked_for_is_refused(tmp_path: Path, texts: list[str]) -> None:
    """One word less than the least is too short."""
    num_words = len(EXAMPLE.split()) + 1
    file = texts_file(tmp_path, *texts)
    settings = {"texts": (str(file),), "ngram_words": num_words + 1}
    with pytest.raises(ValueError, match=rf"of the {len(texts)} examples of mine\.jsonl none can be looked for"):
        Decontamination.model_validate({**settings, "min_words": num_words + 1}).build()
    if len(texts) == 2:
        counted = Decontamination.model_validate({**settings, "min_words": num_words}).coverage()["mine.jsonl"]
        assert (counted["num_examples"], counted["num_searched"]) == (2, 2)


def test_folders_may_have_an_equals_sign_in_their_names(tmp_path: Path) -> None:
    """As Hive names them, `date=2024-01-01`."""
    folder = tmp_path / "date=2024-01-01"
    shutil.copytree(PACKS / "basics", folder / "pack")
    mine = texts_file(folder, EXAMPLE)
    data = folder / "data"
    shutil.copytree(PACKS / "basics", data, ignore=shutil.ignore_patterns("pack.yaml"))
    rules = [
        Decontamination(packs=(pack,), texts=(str(mine),))
        for pack in ("basics", str(folder / "pack"), f"{folder / 'pack'}={data}", f"basics={data}")
    ]
    assert len({json.dumps(rule.looked_for()) for rule in rules}) == 1
    assert [rule.files()[0] for rule in rules] == [
        PACKS / "basics" / "pack.yaml",
        *[folder / "pack" / "pack.yaml"] * 2,
        PACKS / "basics" / "pack.yaml",
    ]


def test_data_may_lie_elsewhere_than_the_description(tmp_path: Path, document: Callable[..., Document]) -> None:
    data = tmp_path / "data"
    shutil.copytree(PACKS / "basics", data, ignore=shutil.ignore_patterns("pack.yaml"))
    rule = Decontamination(packs=(f"basics={data}",), max_removed_fraction=1.0)
    assert rule.looked_for() == Decontamination(packs=("basics",)).looked_for()
    sentence = json.loads((data / "agreement.jsonl").read_text().splitlines()[0])["good"]
    decision = rule.build()(document(f"First this. {sentence} Then that."))
    assert isinstance(decision, Rewrite) and decision.text == "First this. Then that."
    assert decision.edits[0].reason.startswith("basics/agreement ")
    (data / "agreement.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"agreement\.jsonl is not the file that the pack describes"):
        rule.build()
