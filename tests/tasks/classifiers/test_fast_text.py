"""fastText: batches agree with the library line by line, and the same examples give the same file."""

from __future__ import annotations

import itertools
from pathlib import Path

import fasttext
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.classifiers.fast_text import LABEL_PREFIX, FastText, FastTextTraining, load_fast_text, train_fast_text

SMALL = FastTextTraining(dim=4, epoch=5, bucket=1_000, cutoff=256, min_count=1)
WORDS = st.lists(st.sampled_from(["foul", "calm", "river", "boat", "nasty", "zzz", "é"]), max_size=8).map(" ".join)


def examples(*labels: str) -> list[tuple[str, str]]:
    """30 of each label, which its own word separates from the others."""
    return [(label, f"{label}word day {number} of the {label}word") for label in labels for number in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def two(folder: Path) -> FastText:
    """Of two labels, quantised."""
    train_fast_text(examples("bad", "good"), SMALL, folder / "two.ftz", quantised=True, dense_out=folder / "two.bin")
    return load_fast_text(folder / "two.ftz")


@pytest.fixture(scope="module")
def three(folder: Path) -> FastText:
    train_fast_text(examples("bad", "good", "odd"), SMALL, folder / "three.bin", quantised=False)
    return load_fast_text(folder / "three.bin")


def reference(model: FastText, line: str) -> dict[str, float]:
    """Every label's probability as the library gives them for one line."""
    return {
        label.removeprefix(LABEL_PREFIX): score for score, label in model._model.f.predict(line + "\n", -1, 0.0, "")
    }


def test_labels(two: FastText, three: FastText) -> None:
    assert sorted(two.labels) == ["bad", "good"]
    assert sorted(three.labels) == ["bad", "good", "odd"]


@settings(max_examples=30)
@given(lines=st.lists(WORDS, max_size=6))
def test_a_batch_agrees_with_the_library_line_by_line(two: FastText, three: FastText, lines: list[str]) -> None:
    for model, label in itertools.product((two, three), ("bad", "good")):
        expected = [min(1.0, reference(model, line).get(label, 0.0)) if line else 0.0 for line in lines]
        assert model.probabilities(lines, label) == pytest.approx(expected, abs=1e-6)
    for line, (label, score) in zip(lines, three.best(lines), strict=True):
        probabilities = reference(three, line) if line else {}
        assert score == pytest.approx(min(1.0, max(probabilities.values(), default=0.0)), abs=1e-6)
        assert not line or probabilities[label] == max(probabilities.values())


@settings(max_examples=30)
@given(lines=st.lists(WORDS, max_size=6), num_spaces=st.integers(1, 4))
def test_spaces_mean_nothing_to_the_library(two: FastText, three: FastText, lines: list[str], num_spaces: int) -> None:
    spaces = " " * num_spaces
    spaced = [f"{spaces}{line.replace(' ', spaces)}{spaces}\n".encode() for line in lines]
    for model in (two, three):
        assert model.probabilities_of(spaced, "bad") == model.probabilities(lines, "bad")


def test_what_was_learnt(two: FastText) -> None:
    bad, good, nothing = two.probabilities(["badword", "goodword", ""], "bad")
    assert bad > 0.8 > 0.2 > good
    assert nothing == 0.0
    assert two.best(["badword", ""])[0][0] == "bad"
    assert two.best([""]) == [("", 0.0)]
    assert two.probabilities([], "bad") == []


def test_a_label_that_is_not_there(two: FastText) -> None:
    with pytest.raises(ValueError, match=r"no label 'ugly', but .*bad"):
        two.probabilities(["x"], "ugly")


def test_of_independent_labels_none_is_the_rest_of_the_other(folder: Path) -> None:
    """One-vs-all: two probabilities that do not sum to 1."""
    lines = folder / "lines.txt"
    lines.write_text("".join(f"{LABEL_PREFIX}{label} {line}\n" for label, line in examples("bad", "good")))
    fasttext.train_supervised(
        input=str(lines), loss="ova", dim=4, bucket=1000, thread=1, verbose=0, epoch=1, lr=0.01
    ).save_model(str(folder / "ova.bin"))
    model = load_fast_text(folder / "ova.bin")
    both = [model.probabilities(["badword"], label)[0] for label in ("bad", "good")]
    assert sum(both) != pytest.approx(1.0, abs=0.001)  # softmax's do, within 2e-5
    assert both == pytest.approx([reference(model, "badword")[label] for label in ("bad", "good")])


def test_the_same_examples_in_any_order_give_the_same_file(folder: Path, two: FastText) -> None:
    again, dense = folder / "again.ftz", folder / "again.bin"
    num_examples = train_fast_text(reversed(examples("bad", "good")), SMALL, again, quantised=True, dense_out=dense)
    assert num_examples == 60
    assert again.read_bytes() == (folder / "two.ftz").read_bytes()
    assert dense.read_bytes() == (folder / "two.bin").read_bytes()


@pytest.mark.parametrize(
    ("other", "same"), [(SMALL.model_copy(update={"seed": 2}), False), (SMALL, False), (SMALL, True)]
)
def test_seed_and_repetitions_count(folder: Path, two: FastText, other: FastTextTraining, same: bool) -> None:
    more = examples("bad", "good") + ([] if same or other.seed != SMALL.seed else examples("bad"))
    train_fast_text(more, other, folder / "other.bin", quantised=False)
    assert ((folder / "other.bin").read_bytes() == (folder / "two.bin").read_bytes()) is same


def test_a_model_is_loaded_once_for_as_long_as_its_file_stays(folder: Path, two: FastText) -> None:
    assert load_fast_text(folder / "two.ftz") is two
    copy = folder / "copy.ftz"
    copy.write_bytes((folder / "two.ftz").read_bytes())
    before = load_fast_text(copy)
    copy.unlink()
    copy.write_bytes((folder / "two.ftz").read_bytes())
    assert load_fast_text(copy) is not before


@pytest.mark.parametrize("content", [b"", b"not a model" * 100, None])
def test_what_is_no_model(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.ftz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.ftz is not a fastText model \("):
        load_fast_text(path)


@pytest.mark.parametrize(
    ("given_examples", "found"),
    [([], "none"), ([("bad", "x")], "only 'bad'"), ([("bad", "x"), ("good", "")], "only 'bad'")],
)
def test_one_label_is_not_enough(tmp_path: Path, given_examples: list[tuple[str, str]], found: str) -> None:
    with pytest.raises(ValueError, match=f"at least two labels, but there are {found}"):
        train_fast_text(given_examples, SMALL, tmp_path / "x.ftz", quantised=True)
    assert not (tmp_path / "x.ftz").exists()


def test_a_matrix_too_small_to_quantise_is_explained(tmp_path: Path) -> None:
    no_hashes = SMALL.model_copy(update={"word_ngrams": 1, "min_subword_chars": 0, "max_subword_chars": 0})
    with pytest.raises(ValueError, match=r"fastText does not train on 60 examples .*256"):
        train_fast_text(examples("bad", "good"), no_hashes, tmp_path / "x.ftz", quantised=True)
    assert list(tmp_path.iterdir()) == []
