"""Planted examples are all found, counted and shown, whatever the parts of the corpus and the order of anything."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.classifiers.proportion import proportion
from tasks.decontamination import report
from tasks.decontamination.report import MAX_HITS, MAX_RARE_DOCUMENTS, ContaminationReport, contamination
from tasks.decontamination.sought import passages
from tasks.decontamination.words import words_of
from tasks.evaluation.task_pack import TaskPack, load_pack
from tasks.ports import InProcessMap
from tasks.tables import read_rows
from tests.data.prose import prose
from tests.tasks.version_folders import Published, document_id, write_version

SHORT = "too short to find"


def sentence(seed: int | str) -> str:
    """An example's text of more than 13 words."""
    return prose(f"example {seed}", 1).strip()


def write_pack(folder: Path, tasks: Mapping[str, Sequence[str]], name: str = "own") -> TaskPack:
    """A pack of `perplexity` tasks with these texts."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for task, texts in tasks.items():
        content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        (folder / f"{task}.jsonl").write_bytes(content)
        file = {"path": f"{task}.jsonl", "sha256": hashlib.sha256(content).hexdigest()}
        entries.append({"name": task, "kind": "perplexity", "files": [file], "main_metric": "bits_per_byte"})
    (folder / "pack.yaml").write_text(yaml.safe_dump({"name": name, "version": "1", "tasks": entries}))
    return load_pack(folder)


def documents(texts: Mapping[str, str]) -> dict[str, Published]:
    return {document_id(name): Published(text, f"https://a.example/{name}") for name, text in texts.items()}


def reported(folder: Path, texts: Mapping[str, str], *packs: TaskPack, num_buckets: int = 4) -> ContaminationReport:
    version = write_version(folder / "corpora", "web", 1, documents(texts), num_buckets=num_buckets)
    return contamination(version, packs, folder / "work", InProcessMap())


def ids(pack: TaskPack, task: str) -> list[str]:
    return [example.id for each in pack.tasks if each.name == task for example in each.examples()]


def test_a_report_has_every_example_that_is_there_and_where(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "pack", {"one": [sentence(0), sentence(1), SHORT], "two": [sentence(2), sentence(3)]})
    part = " ".join(sentence(3).split()[2:15])
    planted = sentence(0).upper().replace(" ", "\n")
    texts = {str(n): prose(n) for n in range(20)}
    texts["3"] = f"{prose(3)}\n{planted}, {prose(30)}"
    texts["7"] = f"{part}: {prose(7)}"
    found = reported(tmp_path, texts, pack)
    assert (found.corpus, found.num_documents, found.packs) == ("web@1", 20, (pack.reference,))
    one, two = found.task("own", "one"), found.task("own", "two")
    assert (one.num_examples, one.num_searched, one.num_hit, one.num_rare_hit) == (3, 2, 1, 1)
    assert (one.fraction, one.hit_ids) == (0.5, (ids(pack, "one")[0],))
    assert (one.low, one.high) == (proportion(1, 2).low, proportion(1, 2).high)
    (hit,) = one.hits
    assert (hit.example_id, hit.document_id, hit.url) == (one.hit_ids[0], document_id("3"), "https://a.example/3")
    assert texts["3"][hit.start_chars : hit.end_chars] == planted.rstrip(".")
    assert (hit.num_words, hit.num_documents) == (len(words_of(sentence(0))), 1)
    (hit,) = two.hits
    assert texts["7"][hit.start_chars : hit.end_chars] == part and hit.num_words == 13
    assert ContaminationReport.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValueError, match="the contamination of own/three was not looked for; that of own/one, own/two"):
        found.task("own", "three")


def test_of_nothing_there_is_no_fraction(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "pack", {"one": [SHORT]})
    found = reported(tmp_path, {}, pack).task("own", "one")
    assert (found.num_examples, found.num_searched, found.num_hit) == (1, 0, 0)
    assert found.fraction is found.low is found.high is None


@pytest.mark.parametrize(("number", "is_rare"), [(MAX_RARE_DOCUMENTS, True), (MAX_RARE_DOCUMENTS + 1, False)])
def test_common_text_is_told_by_its_number_of_documents(tmp_path: Path, number: int, is_rare: bool) -> None:
    pack = write_pack(tmp_path / "pack", {"one": [sentence(0)]})
    texts = {str(n): prose(n) + (f"\n{sentence(0)} {sentence(0)}" if n < number else "") for n in range(20)}
    found = reported(tmp_path, texts, pack).task("own", "one")
    assert (found.num_hit, found.num_rare_hit) == (1, int(is_rare))
    assert [hit.num_documents for hit in found.hits] == [number] * MAX_HITS
    assert [hit.document_id for hit in found.hits] == sorted(document_id(str(n)) for n in range(number))[:MAX_HITS]


def test_the_longest_stretches_are_shown(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "pack", {"one": [prose("long", 3)]})
    words = prose("long", 3).split()
    lengths = {str(n): 13 + n for n in range(2 * MAX_HITS)}
    texts = {name: f"x {' '.join(words[:length])} x" for name, length in lengths.items()}
    found = reported(tmp_path, texts, pack, num_buckets=1).task("own", "one")
    assert [hit.num_words for hit in found.hits] == sorted(lengths.values(), reverse=True)[:MAX_HITS]


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    planted=st.dictionaries(st.integers(0, 15), st.lists(st.integers(0, 5), max_size=3)),
    chance=st.randoms(use_true_random=False),
    num_buckets=st.sampled_from([1, 2, 8]),
)
def test_nothing_depends_on_parts_or_order(
    tmp_path_factory: pytest.TempPathFactory,
    planted: Mapping[int, Sequence[int]],
    chance: random.Random,
    num_buckets: int,
) -> None:
    folder = tmp_path_factory.mktemp("order")
    texts = {str(n): f"{prose(n, 2)} {' '.join(map(sentence, planted.get(n, ())))}" for n in range(16)}
    one = write_pack(folder / "pack", {"a": [sentence(n) for n in range(3)], "b": [sentence(n) for n in range(2, 6)]})
    other = write_pack(folder / "other", {"c": [sentence(1)]}, name="other")
    found = reported(folder / "x", texts, one, other)
    rearranged = reported(
        folder / "y", dict(chance.sample(list(texts.items()), 16)), other, one, num_buckets=num_buckets
    )
    assert rearranged == found
    there = {n for numbers in planted.values() for n in numbers}
    assert [task.num_hit for task in found.tasks] == [
        len(there & {1}),
        len(there & {0, 1, 2}),
        len(there & {2, 3, 4, 5}),
    ]


def test_what_was_looked_through_before_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = write_pack(tmp_path / "pack", {"one": [sentence(0)]})
    texts = {str(n): prose(n) for n in range(12)}
    before = reported(tmp_path, texts, pack)
    texts["0"] += f" {sentence(0)}"
    next_version = write_version(tmp_path / "corpora", "web", 2, documents(texts))
    read: list[Path] = []

    def reading(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        read.append(path)
        return read_rows(path, columns)

    monkeypatch.setattr(report, "read_rows", reading)
    found = contamination(next_version, [pack], tmp_path / "work", InProcessMap())
    assert (before.tasks[0].num_hit, found.tasks[0].num_hit) == (0, 1)
    assert len({path for path in read if path.parent.name == "documents"}) == 1  # the bucket that has changed
    read.clear()
    assert contamination(next_version, [pack], tmp_path / "work", InProcessMap()) == found and not read
    other = write_pack(tmp_path / "other", {"one": [sentence(0), sentence(1)]})
    assert contamination(next_version, [other], tmp_path / "work", InProcessMap()).tasks[0].num_examples == 2


def test_what_cannot_be_reported_on(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "pack", {"one": [sentence(0)]})
    with pytest.raises(ValueError, match="is no published corpus version"):
        contamination(tmp_path, [pack], tmp_path / "work", InProcessMap())
    version = write_version(tmp_path / "corpora", "web", 1, documents({"0": prose(0)}))
    with pytest.raises(ValueError, match="the task pack own is given twice"):
        contamination(version, [pack, pack], tmp_path / "work", InProcessMap())


@pytest.mark.verify
def test_every_example_planted_in_real_pages_is_found(tmp_path: Path, shared_data: Path) -> None:
    """Of each task of the shared sets some examples, with other case, line ends and quotation marks than they have."""
    pack = load_pack("academic", shared_data / "eval")
    with gzip.open(shared_data / "web" / "pages.gold.jsonl.gz", "rt", encoding="utf-8") as file:
        pages = [json.loads(line)["main_content"] for line in file][:120]
    chance = random.Random(8)
    planted: dict[str, list[tuple[str, str, str]]] = {}
    pieces = {str(n): text.split("\n") for n, text in enumerate(pages)}
    for task in pack.tasks:
        for example in task.choose(15, seed=1):
            text = max(passages(task.kind, example), key=len)
            if len(words_of(text)) < 8:
                continue
            changed = f"«{text.upper()}»".replace(" ", "\r\n", chance.randrange(5))
            name = str(chance.randrange(len(pages)))
            pieces[name].insert(chance.randrange(len(pieces[name]) + 1), changed)
            planted.setdefault(task.name, []).append((example.id, document_id(name), changed))
    texts = {name: "\n".join(lines) for name, lines in pieces.items()}
    by_id = {document_id(name): text for name, text in texts.items()}
    found = reported(tmp_path, texts, pack)
    assert sum(map(len, planted.values())) > 60
    for task_name, of_task in planted.items():
        known = found.task("academic", task_name)
        hits = {(hit.example_id, hit.document_id): hit for hit in known.hits}
        for example_id, in_document, changed in of_task:
            hit = hits[example_id, in_document]
            text = by_id[in_document]
            assert words_of(text[hit.start_chars : hit.end_chars]) == words_of(changed)
