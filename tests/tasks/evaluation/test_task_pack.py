"""Packs: what their YAML may say, which examples are chosen, and the two that come with the program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluation.pack_reference import SHIPPED_PACKS
from tasks.evaluation.pack_rows import Example
from tasks.evaluation.task_pack import PackTask, load_pack
from tests.tasks.evaluation.own_pack import ROWS, described, write_pack

EVAL_DATA = Path(__file__).parents[4] / "shared" / "data" / "eval"


def test_loads_a_folder_a_file_and_data_elsewhere(tmp_path: Path):
    folder = write_pack(tmp_path / "pack")
    pack = load_pack(folder)
    assert [task.name for task in pack.tasks] == list(ROWS)
    assert load_pack(folder / "pack.yaml") == load_pack(str(folder)) == pack
    moved = tmp_path / "elsewhere.yaml"
    moved.write_bytes((folder / "pack.yaml").read_bytes())
    assert load_pack(moved, folder).sha256 == pack.sha256
    assert pack.reference == f"own@1 (sha256 {pack.sha256[:12]})"
    with pytest.raises(ValueError, match=r"own needs .*choices\.jsonl and 3 more: name the folder"):
        load_pack(moved)


def test_an_unknown_pack_or_task_is_refused_with_those_there_are(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no task pack 'nope': it is none of academic, basics, no folder"):
        load_pack("nope")
    folder = write_pack(tmp_path)
    with pytest.raises(ValueError, match=r"the pack own has no task 'piqa'; it has choices, words, pairs, texts"):
        load_pack(folder, names=["pairs", "piqa"])
    with pytest.raises(ValueError, match="no task is named"):
        load_pack(folder, names=[])


def test_some_tasks_of_a_pack_are_in_its_order_and_need_their_own_files_alone(tmp_path: Path):
    folder = write_pack(tmp_path)
    whole, part = load_pack(folder), load_pack(folder, names=["texts", "choices"])
    assert [task.name for task in part.tasks] == ["choices", "texts"]
    assert part.sha256 != whole.sha256 == load_pack(folder, names=list(ROWS)).sha256
    (folder / "pairs.jsonl").unlink()
    assert load_pack(folder, names=["texts", "choices"]) == part
    with pytest.raises(ValueError, match=r"own needs .*pairs\.jsonl: name the folder that holds its files, /.*=DIR;"):
        load_pack(folder, names=["pairs", "texts"])
    with pytest.raises(ValueError, match="has no task 'nothing'"):  # said before any file
        load_pack(folder, names=["nothing"])


def change(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pack: pack["tasks"][0].update(changes)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (change(kind="generate"), "tasks.0.kind: Input should be"),
        (change(main_metric="perplexity"), "tasks.0: a multiple_choice task has the metrics acc, acc_norm"),
        (change(keys={"word": "x"}), r"tasks.0: keys names \['word'\]; a multiple_choice task has the fields query"),
        (change(doc_to_text="!function x"), "tasks.0.doc_to_text: Extra inputs are not permitted"),
        (change(chance=1.0), "tasks.0.chance: Input should be less than 1"),
        (change(num_fewshot=65), "tasks.0.num_fewshot"),
        (change(name="Words"), "tasks.0.name"),
        (change(name="words"), "the task words is there twice"),
        *(
            (lambda pack, name=name: pack.update(name=name), f"name: '{name}' is the name of another figure")
            for name in ("bits_per_byte", "loss", "held_out", "gate.x", "a_low", "a_high", "a_contaminated")
        ),
        *(
            (lambda pack, version=version: pack.update(version=version), "version: String should match pattern")
            for version in ("", "1\n<img src=x>", "1|`a`", "1" * 33)
        ),
        (change(files=[]), "tasks.0.files"),
        (change(files=[{"path": "../x.jsonl", "sha256": "0" * 64}]), "'../x.jsonl' leads out of the pack's folder"),
        (change(files=[{"path": "/x.jsonl", "sha256": "0" * 64}]), "leads out of the pack's folder"),
        (change(files=[{"path": "x.csv", "sha256": "0" * 64}]), "has to end in .jsonl or .jsonl.gz"),
        (change(files=[{"path": "x.jsonl", "sha256": "0"}]), "tasks.0.files.0.sha256"),
        (lambda pack: pack["tasks"][1].update(prompt_end="?"), "for multiple_choice tasks alone"),
        (lambda pack: pack.pop("version"), "version: Field required"),
        (lambda pack: pack.update(tasks=[]), "tasks"),
    ],
)
def test_a_wrong_yaml_is_refused_in_one_line(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], problem: str):
    pack = described(tmp_path)
    spoil(pack)
    (tmp_path / "pack.yaml").write_text(yaml.safe_dump(pack))
    with pytest.raises(ValueError, match=rf"pack\.yaml: .*{problem}") as raised:
        load_pack(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"a: [", b"!!python/object/apply:os.system ['true']", b"\xff\xfe", b"just text", b""]
)
def test_what_is_no_pack_at_all_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "pack.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"pack\.yaml"):
        load_pack(tmp_path)


def test_the_hash_follows_whatever_determines_a_task(tmp_path: Path):
    before = load_pack(write_pack(tmp_path / "a"))
    for number, changed in enumerate(({"prompt_end": "?"}, {"num_fewshot": 1}, {"chance": 0.25})):
        after = load_pack(write_pack(tmp_path / f"b{number}", choices=changed))
        assert after.tasks[0].sha256 != before.tasks[0].sha256
        assert after.sha256 != before.sha256
        assert after.tasks[1].sha256 == before.tasks[1].sha256
    assert load_pack(write_pack(tmp_path / "c")).sha256 == before.sha256


def task_of(folder: Path) -> PackTask:
    return load_pack(write_pack(folder)).tasks[0]


def test_a_larger_choice_contains_every_smaller_one(tmp_path: Path):
    task = task_of(tmp_path)

    def ids(examples: list[Example]) -> list[str]:
        return [example.id for example in examples]

    everything = ids(list(task.examples()))
    choices = [ids(task.choose(limit)) for limit in range(1, 7)]
    assert [len(choice) for choice in choices] == [1, 2, 3, 4, 5, 6]
    for smaller, larger in pairwise(choices):
        assert set(smaller) < set(larger)
        assert larger == [each for each in everything if each in larger]
    assert ids(task.choose(None)) == ids(task.choose(7)) == everything
    assert len({tuple(ids(task.choose(2, seed))) for seed in range(9)}) > 3
    with pytest.raises(ValueError, match="a limit of 0 examples"):
        task.choose(0)


def test_basics_is_whole_balanced_and_gives_nothing_away_by_length():
    pack = load_pack("basics")
    assert sum(len(list(task.examples())) for task in pack.tasks) >= 200
    for task in pack.tasks:
        examples = list(task.examples())
        assert len({example.text for example in examples}) == len(examples)
        if task.kind == "multiple_choice":
            gold = Counter(example.row["gold"] for example in examples)
            assert max(gold.values()) - min(gold.values()) <= 1
            for extreme in (min, max):
                assert 0.15 < length_score(examples, extreme) < 0.35
        elif task.kind == "minimal_pairs":
            longer = [len(example.row["good"]) - len(example.row["bad"]) for example in examples]
            assert abs(sum(length > 0 for length in longer) - sum(length < 0 for length in longer)) < 0.2 * len(longer)
        else:
            assert all(example.row["word"] in example.row["context"].lower() for example in examples)


def length_score(examples: list[Example], extreme: Callable[[list[int]], int]) -> float:
    """What somebody gets who takes one of the longest, or shortest, choices."""
    score = 0.0
    for example in examples:
        lengths = [len(choice) for choice in example.row["choices"]]
        best = extreme(lengths)
        score += (lengths[example.row["gold"]] == best) / lengths.count(best)
    return score / len(examples)


@pytest.mark.skipif(not EVAL_DATA.is_dir(), reason="the evaluation sets are not on this machine (../shared/data/eval)")
def test_academic_describes_the_sets_that_are_there():
    pack = load_pack("academic", EVAL_DATA)
    examples = {task.name: list(task.examples()) for task in pack.tasks}
    assert {name: len(found) for name, found in examples.items()} == {
        "arc_easy": 2376,
        "arc_challenge": 1172,
        "piqa": 1838,
        "boolq": 3270,
        "copa": 100,
        "lambada_openai": 5153,
        "blimp": 67_000,
    }
    assert len({example.part for example in examples["blimp"]}) == 67
    (boolq,) = load_pack("academic", EVAL_DATA, ["boolq"]).tasks
    most_frequent = Counter(example.row["gold"] for example in examples["boolq"]).most_common(1)[0][1] / 3270
    assert boolq.chance == pytest.approx(most_frequent, abs=0.005)


def test_shipped_packs_are_those_in_the_folder():
    from tasks.evaluation.task_pack import PACKS

    assert sorted(path.parent.name for path in PACKS.glob("*/pack.yaml")) == sorted(SHIPPED_PACKS)
