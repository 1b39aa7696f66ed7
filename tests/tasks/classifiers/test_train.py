"""Training as a whole: tiny texts in, a bundle out, the same one each time, and nothing by halves."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.classifiers import train as module
from tasks.classifiers.bundle import load_bundle, text_keys
from tasks.classifiers.fast_text import FastTextTraining
from tasks.classifiers.labelled import BackgroundSource, LabelledSource, gather
from tasks.classifiers.measured import Probabilities, score_held_out
from tasks.classifiers.parts import MIN_SITES, check_labelled, divide
from tasks.classifiers.search import Budget, Settings
from tasks.classifiers.train import ClassifierTraining, TrainedClassifier, check_training, train_classifier

SMALL = FastTextTraining(dim=4, epoch=10, bucket=1_000, cutoff=256, min_count=1)


def sentence(draw: random.Random, word: str = "", num_words: int = 8) -> str:
    """Random words, and among them `word`."""
    words = ["".join(draw.choices("abcdefghij", k=4)) for _ in range(num_words)]
    if word:
        words.insert(draw.randrange(len(words)), word)
    return " ".join(words)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 texts, every fourth one with the word by which it is foul, and 300 ordinary documents of three lines."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(1)
    labelled = [
        {"text": sentence(draw, "vulgus" if number % 4 == 0 else "placid"), "label": int(number % 4 == 0)}
        for number in range(400)
    ]
    documents = [{"text": "\n".join(sentence(draw, "placid") for _ in range(3))} for _ in range(300)]
    write(folder / "labelled.jsonl", labelled)
    write(folder / "background.jsonl", documents)
    return folder


def configured(data: Path, **changes: Any) -> ClassifierTraining:
    facts = {
        "name": "manners",
        "task": "Foul or fair <b>.",
        "positive": "foul",
        "negative": "fair",
        "labelled": (LabelledSource(name="own", paths=(str(data / "labelled.jsonl"),), positive=("1",)),),
        "background": (BackgroundSource(name="pages", paths=(str(data / "background.jsonl"),)),),
        "first": Settings(training=SMALL),
        "budget": Budget(trials=1),
        "false_alarm_fraction": 0.02,
        **changes,
    }
    return ClassifierTraining(**facts)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedClassifier:
    return train_classifier(configured(data), tmp_path_factory.mktemp("work"), created="2026-01-01")


def test_separable_words_are_told_apart(trained: TrainedClassifier) -> None:
    report = trained.measured.report
    assert report.average_precision.value == 1.0
    assert report.roc_auc.value == 1.0
    assert trained.trials[0].score.average_precision == 1.0
    foul, fair = trained.bundle.probabilities(["abba vulgus cede", "abba placid cede"])
    assert foul > trained.bundle.classifier.threshold >= fair
    assert trained.measured.background.false_alarms == 0


def test_the_bundle_says_how_it_came_about(trained: TrainedClassifier, data: Path) -> None:
    classifier = trained.bundle.classifier
    assert load_bundle(trained.bundle.folder, trained.bundle.sha256) == trained.bundle
    assert classifier.training == SMALL
    assert classifier.labels == ("fair", "foul")
    assert [(fact.name, fact.num_texts) for fact in classifier.data] == [("own", 400), ("pages", 300)]
    scores = classifier.scores
    assert scores["size_bytes"] == trained.bundle.model_path.stat().st_size < scores["size_bytes_before"]
    assert scores["average_precision_before"] == 1.0
    assert scores["recall_low"] < scores["recall"] == trained.measured.report.recall.fraction
    assert scores["background_num_texts"] == len(trained.held_out.background)
    assert not trained.reused


def test_the_card_for_people(trained: TrainedClassifier) -> None:
    card = (trained.bundle.folder / "card.md").read_text()
    assert "Foul or fair &lt;b&gt;." in card
    for words in (
        "chosen for at most 2.00%",
        "| own | 400 |",
        "recall**: 1",
        "size" if False else "bytes",
        "## Limits",
    ):
        assert words in card
    assert f"{trained.bundle.classifier.scores['size_bytes']:,.0f} bytes" in card


def test_the_reports(trained: TrainedClassifier) -> None:
    names = {path.name for path in trained.reports.iterdir()}
    assert names == {
        *("precision_recall.png", "confusion.png", "calibration.png", "trials.csv", "errors.md", "errors.csv"),
        *("slices.csv", "slices.md", "background_slices.csv"),
    }
    assert (trained.reports / "slices.csv").read_text().count("source: own") == 1
    assert (trained.reports / "background_slices.csv").read_text().count("source: pages") == 1


def test_nothing_held_out_was_seen(trained: TrainedClassifier, data: Path) -> None:
    configuration = configured(data)
    gathered = gather(configuration.labelled, configuration.background, configuration.normaliser)
    parts = divide(gathered)
    assert parts.held_out == trained.held_out
    sides = (parts.train, parts.validation, parts.test, parts.tuning, parts.reporting)
    texts = [example.text for side in sides for example in side]
    assert len(texts) == len(set(texts)) == len(gathered.examples) + len(gathered.background)
    assert not trained.bundle.has_seen(trained.held_out.texts).any()
    assert not trained.bundle.has_seen(trained.held_out.background).any()
    tuned = [example.text for example in (*parts.train, *parts.validation, *parts.tuning)]
    assert trained.bundle.has_seen(tuned).all()
    assert trained.bundle.seen().tolist() == np.unique(text_keys("words_and_marks", tuned)).tolist()


def test_the_same_again_is_the_same_byte_for_byte(trained: TrainedClassifier, data: Path, tmp_path: Path) -> None:
    again = train_classifier(configured(data), tmp_path, created="2026-01-01")
    assert not again.reused
    for path in trained.bundle.folder.iterdir():
        assert path.read_bytes() == (again.bundle.folder / path.name).read_bytes(), path.name


def test_a_finished_bundle_is_taken_as_it_is(
    trained: TrainedClassifier, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **keywords: object) -> int:
        raise AssertionError("nothing is to be trained again")

    monkeypatch.setattr(module, "train_fast_text", refuse)
    work = trained.bundle.folder.parent.parent
    again = train_classifier(configured(data), work, created="2026-01-01")
    assert again.reused
    assert again.bundle == trained.bundle
    assert again.measured.figures() == trained.measured.figures()


def test_on_another_day_it_is_the_same_bundle(trained: TrainedClassifier, data: Path) -> None:
    """A training that was stopped goes on after midnight."""
    again = train_classifier(configured(data), trained.bundle.folder.parent.parent, created="2026-01-02")
    assert again.reused and again.bundle == trained.bundle
    assert again.bundle.classifier.created == "2026-01-01"


def test_interrupted_it_leaves_nothing_that_counts_and_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **keywords: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "card", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(configured(data), tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "trials.csv"]
    (tmp_path / ".tmp-of-a-kill").mkdir()
    tried = (tmp_path / "trials.csv").read_bytes()
    train_classifier(configured(data), tmp_path)
    assert (tmp_path / "trials.csv").read_bytes() == tried
    assert not (tmp_path / ".tmp-of-a-kill").exists()


def worst_line(probabilities: Probabilities, text: str) -> float:
    """A document is as foul as its foulest line."""
    return max(probabilities(text.splitlines()), default=0.0)


def test_pieces_are_aggregated_as_in_use(data: Path, tmp_path: Path) -> None:
    by_line = configured(data, unit="piece", aggregation="worst_line")
    trained = train_classifier(by_line, tmp_path, score_document=worst_line)
    assert trained.bundle.classifier.aggregation == "worst_line"
    _, background = score_held_out(trained.bundle, trained.held_out, worst_line)
    lines = trained.held_out.background[0].splitlines()
    assert len(lines) == 3
    assert background[0] == max(trained.bundle.probabilities(lines))
    planted = "\n".join([*lines, "abba vulgus cede"])
    assert worst_line(trained.bundle.probabilities, planted) > trained.bundle.classifier.threshold


def test_the_rarer_class_is_repeated(data: Path, tmp_path: Path) -> None:
    plain = configured(data)
    gathered = gather(plain.labelled, plain.background, plain.normaliser)
    parts = divide(gathered)
    num_foul = sum(example.positive for example in parts.train)
    for ratio, times in ((0.0, 1), (1.0, round((len(parts.train) - num_foul) / num_foul))):
        lines = list(module._lines(parts.train, Settings(minority_ratio=ratio), plain))
        assert sum(label == "foul" for label, _ in lines) == times * num_foul
        assert sum(label == "fair" for label, _ in lines) == len(parts.train) - num_foul
    assert times > 1


def test_background_that_resembles_labelled_texts_is_left_out(data: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied.jsonl"
    shutil.copyfile(data / "labelled.jsonl", copied)
    ordinary = (BackgroundSource(name="pages", paths=(str(data / "background.jsonl"), str(copied))),)
    configuration = configured(data, background=ordinary)
    parts = divide(gather(configuration.labelled, ordinary, configuration.normaliser))
    assert parts.num_left_out == 400 == len(parts.train) + len(parts.validation) + len(parts.test)
    assert len(parts.tuning) + len(parts.reporting) == 300
    assert not {example.line for example in parts.test} & {
        document.line for document in (*parts.tuning, *parts.reporting)
    }
    only_copies = (BackgroundSource(name="pages", paths=(write(tmp_path / "one.jsonl", [{"text": "abc"}]),)),)
    with pytest.raises(ValueError, match="do not fill both halves"):
        divide(gather(configuration.labelled, only_copies, configuration.normaliser))


def test_a_group_is_on_one_side(data: Path, tmp_path: Path) -> None:
    """Ten texts of each page, no two of which resemble each other; without the column most pages are on two sides."""
    draw = random.Random(2)
    rows = [{"text": sentence(draw), "label": row % 2, "page": f"p{row // 10}"} for row in range(400)]
    rows += [{"text": sentence(draw), "label": row % 2, "page": None} for row in range(40)]
    paths = (write(tmp_path / "pages.jsonl", rows),)
    ordinary = configured(data).background

    def sides_by_page(group: str) -> dict[str, set[str]]:
        source = LabelledSource(name="own", paths=paths, positive=("1",), source="page", group=group)
        parts = divide(gather([source], ordinary, "plain_line"))
        found: dict[str, set[str]] = {}
        for name in ("train", "validation", "test"):
            for example in getattr(parts, name):
                found.setdefault(example.source, set()).add(name)
        return found

    apart, together = sides_by_page(""), sides_by_page("page")
    assert sum(len(sides) > 1 for sides in apart.values()) > 20
    assert [page for page, sides in together.items() if len(sides) > 1] == ["own"]  # of no page


@pytest.mark.parametrize("num_sites", [MIN_SITES - 1, MIN_SITES])
def test_a_site_of_the_background_is_in_one_half(data: Path, tmp_path: Path, num_sites: int) -> None:
    """Where there are enough; `www.` and `blog.` of one domain are one site, and a page of no site is on its own."""
    draw = random.Random(3)
    hosts = ("www", "blog", "a.b")
    urls = [f"https://{hosts[row % 3]}.site{row % num_sites}-example.com/{row}" for row in range(600)] + [""] * 60
    pages = [{"text": sentence(draw), "url": url} for url in urls]
    ordinary = BackgroundSource(name="pages", paths=(write(tmp_path / "pages.jsonl", pages),), url="url")
    configuration = configured(data, background=(ordinary,))
    parts = divide(gather(configuration.labelled, (ordinary,), configuration.normaliser))
    tuning, reporting = ({document.group for document in half} for half in (parts.tuning, parts.reporting))
    both = {f"site{number}-example.com" for number in range(num_sites)} if num_sites < MIN_SITES else set()
    assert tuning & reporting == both | {""}
    assert parts.num_sites == (0 if num_sites < MIN_SITES else num_sites)
    assert len(parts.tuning) + len(parts.reporting) + parts.num_left_out == len(
        gather(configuration.labelled, (ordinary,), configuration.normaliser).background
    )


def test_the_labelled_texts_are_looked_at_alone(data: Path, tmp_path: Path) -> None:
    configuration = configured(data)
    gathered, sizes = check_labelled(configuration.labelled, configuration.normaliser)
    parts = divide(gather(configuration.labelled, configuration.background, configuration.normaliser))
    assert sizes == {"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)}
    assert [(count.label, count.num_rows) for count in gathered.labels] == [("0", 300), ("1", 100)]
    rows = [{"text": f"word {chr(97 + number)}", "label": number % 2} for number in range(6)]
    few = LabelledSource(name="few", paths=(write(tmp_path / "few.jsonl", rows),), positive=("1",))
    with pytest.raises(ValueError, match="both classes are needed"):
        check_labelled([few], "plain_line")


def test_a_side_without_a_class_is_named(tmp_path: Path) -> None:
    rows = [{"text": f"word {chr(97 + number)}", "label": number % 2} for number in range(6)]
    few = LabelledSource(name="few", paths=(write(tmp_path / "few.jsonl", rows),), positive=("1",))
    with pytest.raises(ValueError, match=r"the \w+ side has \d positive of \d texts, and both classes are needed"):
        divide(gather([few], [], "plain_line"))


def test_a_model_that_is_too_large_is_refused(data: Path, tmp_path: Path) -> None:
    large = Settings(training=SMALL.model_copy(update={"bucket": 20_000, "cutoff": 10_000, "epoch": 1}))
    with pytest.raises(ValueError, match="at most 10,000 bytes"):
        train_classifier(configured(data, first=large, max_size_bytes=10_000), tmp_path)


def test_a_trial_that_comes_to_nothing_is_worth_nothing(data: Path, tmp_path: Path) -> None:
    configuration = configured(data)
    parts = divide(gather(configuration.labelled, configuration.background, configuration.normaliser))
    opposite = tuple(replace(example, positive=not example.positive) for example in parts.validation)
    score = module._try(configuration.first, configuration, replace(parts, validation=opposite), None, tmp_path)
    assert (score.average_precision, score.size_bytes > 0) == (0.0, True)
    assert "do not rise with the labels" in score.note
    no_features = SMALL.model_copy(update={"word_ngrams": 1, "max_subword_chars": 0, "min_count": 1_000})
    score = module._try(Settings(training=no_features), configuration, parts, None, tmp_path)
    assert (score.average_precision, score.size_bytes) == (0.0, 0)
    assert "fastText does not train" in score.note
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normaliser": "upper"}, "'upper' is none of words_and_marks, plain_line"),
        ({"negative": "foul"}, "both classes are called 'foul'"),
        ({"aggregation": "mean"}, "is for unit piece"),
        ({"name": "Manners!"}, "name"),
        ({"background": ()}, "background"),
    ],
)
def test_a_wrong_configuration_is_refused(data: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        configured(data, **changes)


def test_two_sources_need_two_names(data: Path) -> None:
    own = configured(data).labelled[0]
    with pytest.raises(ValidationError, match="two sources are called 'own'"):
        configured(data, labelled=(own, own))


def test_missing_files_are_named_before_any_work(data: Path) -> None:
    check_training(configured(data))
    absent = (BackgroundSource(name="pages", paths=(str(data / "absent.jsonl"),)),)
    with pytest.raises(ValueError, match=r"absent\.jsonl: it can't be opened"):
        check_training(configured(data, background=absent))
