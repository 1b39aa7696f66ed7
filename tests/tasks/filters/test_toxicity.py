"""The toxicity rule: its limit, its two actions, its models, and the figures that its card claims, measured again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.classifiers.bundle import Bundle, embedded, load_bundle, save_bundle
from tasks.classifiers.fast_text import FastTextTraining, train_fast_text
from tasks.document import Document, Drop, Keep, Rewrite
from tasks.filters.piece_classifier import AGGREGATIONS
from tasks.filters.toxicity import Toxicity
from tasks.filters.toxicity_pieces import split_into_pieces
from tasks.formatters.edits import apply_edits
from tasks.model_files import CLASSIFIER_FILE, models_in
from tests.benchmarks import toxicity_texts
from tests.benchmarks.report_toxicity import toxicities
from tests.data.toxicity_negatives import NEGATIVES
from tests.data.toxicity_sets import SETS, sentences

INSULT = "You are a stupid idiot and a disgusting piece of shit."
CALM = "The boat was found on the far bank of the river, and its oars lay in the grass beside the path."
PAGE = "\n".join([CALM] * 30)
MAX_MODEL_BYTES = 2_000_000


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(embedded("toxicity"))


def test_one_insult_on_a_long_page_is_found(document: Callable[[str], Document]) -> None:
    decide = Toxicity().build()
    assert decide(document(PAGE)) == Keep()
    decision = decide(document(f"{PAGE}\n{INSULT}\n{PAGE}"))
    assert isinstance(decision, Drop)
    assert (decision.reason, decision.threshold, decision.detail) == ("toxic", 0.5, INSULT)


def test_the_rule_agrees_with_the_aggregation(bundle: Bundle, document: Callable[[str], Document]) -> None:
    """What chose the threshold, in training, is what the rule computes."""
    score = AGGREGATIONS[bundle.classifier.aggregation]
    toxicity = toxicities()
    for text in (INSULT, CALM, PAGE, f"{PAGE}\n{INSULT}", "What an idiot!", "x"):
        above = score(bundle.probabilities, text) > bundle.classifier.threshold
        assert (toxicity(text)[0] > 0.5) == above
        assert (Toxicity().build()(document(text)) != Keep()) == above


def test_boundary(document: Callable[[str], Document]) -> None:
    text = f"{CALM}\n{INSULT}\n{CALM}"
    toxicity, _ = toxicities()(text)
    assert 0.5 < toxicity < 1.0
    assert Toxicity(max_toxicity=toxicity).build()(document(text)) == Keep()
    below = toxicity - 1e-9
    assert Toxicity(max_toxicity=below).build()(document(text)) == Drop("toxic", toxicity, below, INSULT)


def test_spans_are_removed(document: Callable[[str], Document]) -> None:
    text = f"{PAGE}\n{INSULT}\n\n{PAGE}"
    rule = Toxicity(action="remove_spans")
    decision = rule.build()(document(text))
    assert isinstance(decision, Rewrite)
    assert decision.text == f"{PAGE}\n{PAGE}" == apply_edits(text, decision.edits)
    [edit] = decision.edits
    assert (edit.kind, edit.reason, edit.start) == ("span_removed", "toxic_span", len(PAGE) + 1)
    assert edit.removed.strip() == INSULT
    assert rule.build()(document(PAGE)) == Keep()
    score = rule.build_score()(document(text))
    assert score.text == decision.text
    assert score.drop is None


def test_boundary_of_what_may_be_removed(document: Callable[[str], Document]) -> None:
    text = f"{CALM}\n{INSULT}"
    share = len(INSULT) / (len(INSULT) + len(CALM))
    at, below = (Toxicity(action="remove_spans", max_removed_fraction=limit) for limit in (share, share - 1e-9))
    assert isinstance(at.build()(document(text)), Rewrite)
    expected = Drop("toxic_share", share, share - 1e-9)
    assert below.build()(document(text)) == expected == below.build_score()(document(text)).drop
    assert Toxicity(action="remove_spans", max_removed_fraction=1).build()(document(INSULT)) == Drop("empty")


@pytest.mark.parametrize("action", ["drop", "remove_spans"])
def test_other_languages_pass(action: str, document: Callable[..., Document]) -> None:
    rule = Toxicity.model_validate({"action": action})
    assert isinstance(rule.build()(document(INSULT, language="en")), Drop)
    assert rule.build()(document(INSULT, language="de")) == Keep()
    assert rule.build_score()(document(INSULT, language="de")).figures == (None,)


@pytest.mark.parametrize("action", ["drop", "remove_spans"])
def test_many_at_once_are_decided_as_each_alone(
    action: str, document: Callable[..., Document], page_texts: list[str]
) -> None:
    rule = Toxicity.model_validate({"action": action})
    planted = [f"{text}\n{INSULT}" for text in page_texts[:60:4]]
    documents = [
        *(
            document(text, language=language)
            for text in (INSULT, " \n", PAGE, f"{PAGE}\n{INSULT}")
            for language in ("", "de")
        ),
        *map(document, [*page_texts[:60], *planted, *page_texts[60:120]]),
    ]
    decide, decide_batch = rule.build(), rule.build_batch()
    assert decide_batch is not None
    alone = [decide(each) for each in documents]
    assert decide_batch(documents) == alone
    assert decide_batch(documents[::-1]) == alone[::-1]
    assert decide_batch([]) == []
    assert {type(decision) for decision in alone} == {Keep, Drop, *((Rewrite,) if action == "remove_spans" else ())}


def test_the_worst_piece_is_given_whole(document: Callable[[str], Document]) -> None:
    """The ledger cuts it, when it has hidden what must not be shown."""
    text = "you are a stupid idiot " * 20
    decision = Toxicity().build()(document(text))
    assert isinstance(decision, Drop)
    assert decision.detail == text.strip()


def test_the_model_is_loaded_once(document: Callable[[str], Document], monkeypatch: pytest.MonkeyPatch) -> None:
    import fasttext

    from tasks.classifiers import fast_text
    from tasks.screen import built

    loads: list[str] = []
    load = fasttext.load_model

    def counted(path: str) -> Any:
        loads.append(path)
        return load(path)

    monkeypatch.setattr(fasttext, "load_model", counted)
    fast_text._loaded.cache_clear()
    for rule in (Toxicity(), Toxicity(max_toxicity=0.4), Toxicity(action="remove_spans")):
        for _ in range(2):
            built(rule)(document(INSULT))
            rule.build()(document(INSULT))
    assert len(loads) == 1


def test_a_bundle_of_the_store(tmp_path: Path, bundle: Bundle, document: Callable[[str], Document]) -> None:
    """Another classifier with another threshold: the limit stays .5."""
    strict = bundle.classifier.model_copy(update={"threshold": 1.0})
    made = save_bundle(tmp_path / "made", strict, bundle.model_path, bundle.seen(), "")
    models = tmp_path / "models"
    shutil.copytree(made.folder, models / made.sha256)
    rule = Toxicity(model=f"toxicity@2#sha256={made.sha256}")
    with models_in(models):
        assert rule.files() == (models / made.sha256 / CLASSIFIER_FILE,)
        assert rule.build()(document(INSULT)) == Keep()
    assert Toxicity().files() == (bundle.folder / CLASSIFIER_FILE,)
    with models_in(tmp_path), pytest.raises(ValueError, match="not in the store"):
        rule.build()
    with pytest.raises(ValueError, match=r"label='toxic' is for a model that is one file"):
        Toxicity(label="toxic").build()


def test_a_classifier_of_whole_documents_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    of_documents = bundle.classifier.model_copy(update={"aggregation": "", "unit": "document"})
    made = save_bundle(tmp_path / "made", of_documents, bundle.model_path, bundle.seen(), "")
    shutil.copytree(made.folder, tmp_path / made.sha256)
    with models_in(tmp_path), pytest.raises(ValueError, match="has the aggregation none, for whole documents"):
        Toxicity(model=f"toxicity@2#sha256={made.sha256}").build()


def test_a_model_that_is_one_file(tmp_path: Path, document: Callable[[str], Document]) -> None:
    examples = [("bad", f"you stupid idiot number {number}") for number in range(300)]
    examples += [("good", f"the boat is on the river, day {number}") for number in range(300)]
    path = tmp_path / "model.bin"
    train_fast_text(examples, FastTextTraining(), path, quantised=False)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / sha256).mkdir()
    path.rename(tmp_path / sha256 / "model")
    reference = f"/somewhere/model.bin#sha256={sha256}"
    with models_in(tmp_path):
        decide = Toxicity(model=reference, label="bad").build()
        assert isinstance(decide(document("you stupid idiot number nine")), Drop)
        assert decide(document("the boat is on the river, day nine")) == Keep()
        with pytest.raises(ValueError, match=r"has the labels \w+, \w+: say which of them means toxic"):
            Toxicity(model=reference).build()


def test_the_embedded_bundle_is_small_and_describes_itself(bundle: Bundle) -> None:
    assert bundle.model_path.stat().st_size < MAX_MODEL_BYTES
    assert bundle.classifier.languages == ("en",)
    card = (bundle.folder / "card.md").read_text()
    assert "MIT" in card
    assert "CC-BY-SA" in card


def test_the_sets_are_not_trained_on() -> None:
    trained = set(sentences(NEGATIVES))
    for name, templates in SETS.items():
        found = sentences(templates)
        assert len(set(found)) >= 100, name
        assert not trained & set(found), name
        assert not {template for template, _ in templates} & {template for template, _ in NEGATIVES}


def test_pieces_of_the_planted_page(shared_data: Path) -> None:
    """A planted sentence is a line of its own, and begins where it is said to."""
    pages = [page.text for page in toxicity_texts.web_pages() if page.side == "held out"][:20]
    for planted in toxicity_texts.plant(pages, [f"Sentence {number} of the test." for number in range(30)], 30):
        end = planted.start + len(planted.sentence)
        assert planted.text[planted.start : end] == planted.sentence
        assert planted.text[planted.start - 1] == planted.text[end] == "\n"
        assert any(start <= planted.start and end <= stop for start, stop in split_into_pieces(planted.text))
