"""What every rule in tasks.filters and tasks.formatters must do, whatever it decides; it finds new rules itself."""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import pickle
import pkgutil
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks.filters
import tasks.formatters
from tasks.document import Decision, Document, Drop, Keep, Rewrite
from tasks.filters.datatrove_adapter import DatatroveStep
from tasks.formatters.edits import apply_edits
from tasks.rule import Rule

FORMATTERS = "datatrove.pipeline.formatters"
EXAMPLES: dict[type[Rule], list[Rule]] = {
    DatatroveStep: [
        DatatroveStep(name="paragraphs", step="datatrove.pipeline.filters:C4ParagraphFilter"),
        DatatroveStep(name="c4", step="datatrove.pipeline.filters:C4QualityFilter", options={"split_paragraph": False}),
        DatatroveStep(name="symbols", step=f"{FORMATTERS}:SymbolLinesFormatter"),
    ],
}
"""Examples of the rules that need arguments; the others stand for themselves."""


def all_rules() -> list[Rule]:
    """One rule, or its examples, of each subclass of Rule that the two packages define."""
    found: dict[str, Rule] = {}
    for package in (tasks.filters, tasks.formatters):
        for module_info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for thing in vars(importlib.import_module(module_info.name)).values():
                if isinstance(thing, type) and issubclass(thing, Rule) and thing.__module__ == module_info.name:
                    for index, rule in enumerate(EXAMPLES.get(thing) or [thing()]):
                        found[f"{thing.__name__}-{index}"] = rule
    return [found[name] for name in sorted(found)]


RULES = all_rules()
by_rule = pytest.mark.parametrize("rule", RULES, ids=[f"{rule.kind}-{index}" for index, rule in enumerate(RULES)])

SENTENCE = "The boat and the oars were found on the far bank, and nobody knew whose they were. "
TEXTS = [
    "",
    " \n\t\u2028 ",
    "word",
    SENTENCE,
    SENTENCE * 20,
    "\n".join([SENTENCE] * 20),
    "Home\r\nAbout us\r\n" + "\r\n".join(f"{SENTENCE}{name}." for name in "abcdefgh"),
    "كان القارب على الضفة البعيدة، ولم يعرف أحد لمن هو. " * 20,
    "\u202eהסירה נמצאה על הגדה הרחוקה. \u202c" * 20,
    "lone \ud800 surrogates \udfff and \udc80\ud83d pairs the wrong way round. " * 20,
    "zero\x00bytes and \x1b[31m escapes. " * 20,
    "[1] [2] [3]\n" * 10,
    "jo@boats.org 8.8.8.8\n***\n" * 5,
    "You are a stupid idiot. " * 20,
]
ANY_TEXT = st.text(
    st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("\n\r .[]{}-#…\u2028"), max_size=60
)


def of_text(text: str) -> Document:
    return Document(document_id="0" * 32 + "-0", text=text, source="test")


def check(document: Document, decision: Decision) -> None:
    """What holds of every decision."""
    if isinstance(decision, Drop):
        assert decision.reason.isidentifier()
        assert (decision.value is None) == (decision.threshold is None)
    elif isinstance(decision, Rewrite):
        assert decision.edits
        assert decision.text != document.text
        assert apply_edits(document.text, decision.edits) == decision.text
        assert all(edit.reason.isidentifier() for edit in decision.edits)
    else:
        assert decision == Keep()


@pytest.fixture(scope="module")
def built() -> dict[int, Callable[[Document], Decision]]:
    return {id(rule): rule.build() for rule in RULES}


def test_the_rules_are_found() -> None:
    kinds = {rule.kind for rule in RULES}
    assert kinds >= {"gopher_repetition", "gopher_quality", "fineweb", "toxicity", "word_list", "c4_lines", "datatrove"}


@by_rule
def test_decisions_are_sound_deterministic_and_free_of_history(
    rule: Rule, built: dict[int, Callable[[Document], Decision]]
) -> None:
    decide = built[id(rule)]
    documents = [of_text(text) for text in TEXTS]
    copies = [dataclasses.replace(document) for document in documents]
    first = [decide(document) for document in documents]
    assert documents == copies, "a rule must not change its argument"
    for document, decision in zip(documents, first, strict=True):
        check(document, decision)
    backwards = [decide(document) for document in reversed(documents)][::-1]
    assert backwards == first
    assert [rule.build()(document) for document in documents[3:5]] == first[3:5]


@by_rule
@settings(max_examples=40)
@given(text=ANY_TEXT)
def test_any_text(rule: Rule, built: dict[int, Callable[[Document], Decision]], text: str) -> None:
    document = of_text(text)
    check(document, built[id(rule)](document))
    assert len(rule.hide(text)) == len(text), "edits take their pieces from the hidden text by place"


@by_rule
@pytest.mark.parametrize("char", ["a", "#", "\n", " ", "{", "…", '"', "é"])
def test_a_megabyte_of_one_character(rule: Rule, char: str, built: dict[int, Callable[[Document], Decision]]) -> None:
    document = of_text(char * 1_000_000)
    start = time.process_time()
    check(document, built[id(rule)](document))
    assert time.process_time() - start < 30, "measured: at most 2 s"


def decide_elsewhere(pickled: bytes, texts: list[str]) -> list[Decision]:
    decide = pickle.loads(pickled).build()
    return [decide(of_text(text)) for text in texts]


def test_rules_travel_to_another_process(built: dict[int, Callable[[Document], Decision]]) -> None:
    texts = TEXTS[3:8]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for rule in RULES:
            elsewhere = pool.apply(decide_elsewhere, (pickle.dumps(rule), texts))
            assert elsewhere == [built[id(rule)](of_text(text)) for text in texts]


@by_rule
def test_configuration_survives_json_and_names_its_files(rule: Rule) -> None:
    assert type(rule).model_validate_json(rule.model_dump_json()) == rule
    assert all(path.is_file() for path in rule.files())
    with pytest.raises(ValueError, match="frozen"):
        rule.kind = "other"  # type: ignore[attr-defined]
