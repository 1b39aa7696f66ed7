"""A fastText model in a language rule: labels as codes, a hash that holds, a limit of its own."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.classifiers.fast_text import FastTextTraining, train_fast_text
from tasks.document import Document, Drop, Keep
from tasks.language import LanguageRule
from tasks.language_models import EmbeddedModel, FastTextModel, beginning, language_model
from tasks.model_files import SINGLE_FILE, models_in

ENGLISH = "The mill stands by the river, and every morning the miller opens the gate and lets the water in. "
GERMAN = "Die Mühle steht am Fluss, und jeden Morgen öffnet der Müller das Wehr und lässt das Wasser hinein. "
TRAINING = FastTextTraining(dim=8, epoch=60, lr=0.5, word_ngrams=1, min_count=1, bucket=2_000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the words of two sentences, with labels as GlotLID has them."""
    out = tmp_path_factory.mktemp("language") / "model.bin"
    examples = [
        (label, " ".join(words[start : start + 4]))
        for label, words in (("eng_Latn", ENGLISH.split()), ("deu_Latn", GERMAN.split()))
        for start in range(len(words) - 4)
    ]
    train_fast_text(examples * 3, TRAINING, out, quantised=False)
    return out


@pytest.fixture
def named(model: Path, tmp_path: Path) -> tuple[str, Path]:
    """The model's name in a recipe, and a store's folder of models that has it."""
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    (tmp_path / sha256).mkdir()
    shutil.copyfile(model, tmp_path / sha256 / SINGLE_FILE)
    return f"{model}#sha256={sha256}", tmp_path


def document(text: str) -> Document:
    return Document(document_id="a-0", text=text, source="test")


def test_labels_are_codes_and_line_feeds_are_spaces(model: Path) -> None:
    loaded = FastTextModel(model)
    assert loaded.languages == {"en", "de"}
    (english, german, lines, nothing) = loaded.identify([ENGLISH, GERMAN, ENGLISH.replace(" ", "\n"), ""])
    assert (english[0], german[0], nothing) == ("en", "de", ("und", 0.0))
    assert english == lines and english[1] > 0.9 and english[1] == round(english[1], 4)


def test_what_fasttext_takes_for_a_label_or_an_end_is_read_over(model: Path) -> None:
    loaded = FastTextModel(model)
    for mark in ("</s>", "__label__deu_Latn", "<s> </s>"):
        odd = [
            f"{mark} {ENGLISH}",
            f"{ENGLISH} {mark}",
            f"Die Mühle {mark} {ENGLISH * 3}",
            ENGLISH.replace("the", mark),
        ]
        assert [language for language, _ in loaded.identify(odd)] == ["en"] * 4


@pytest.mark.parametrize("space", [" ", "\u3000", "\u2003", "\n", "\t"])
def test_white_space_alone_is_in_no_language(model: Path, space: str) -> None:
    assert FastTextModel(model).identify([space * 200]) == EmbeddedModel().identify([space]) == [("und", 0.0)]


@settings(max_examples=50)
@given(pieces=st.lists(st.text(st.characters(), max_size=80), max_size=5))
def test_any_pieces_are_identified_one_by_one(model: Path, pieces: list[str]) -> None:
    loaded = FastTextModel(model)
    assert loaded.identify(pieces) == [found for piece in pieces for found in loaded.identify([piece])]
    assert EmbeddedModel().identify(pieces) == [
        found for piece in pieces for found in EmbeddedModel().identify([piece])
    ]


def test_a_rule_asks_the_model_that_it_names(named: tuple[str, Path]) -> None:
    name, models = named
    rule = LanguageRule(languages=("de",), model=name, min_score=0.6)
    with models_in(models):
        assert [file.read_bytes() for file in rule.files()] == [Path(name.partition("#")[0]).read_bytes()]
        decide = rule.build_identified()
    assert decide(document(GERMAN * 3))[1] == Keep()
    known, drop = decide(document(ENGLISH * 3))
    assert drop == Drop("language_other", known.language_score, 0.6, "en")
    assert LanguageRule().files() == ()


def test_of_another_model_the_score_of_a_short_text_counts(named: tuple[str, Path]) -> None:
    """The embedded one's .5 says how short it is; fastText's says, of unknown words, how frequent the label was."""
    name, folder = named
    rule = LanguageRule(languages=("en", "de"), model=name, min_score=0.9)
    with models_in(folder):
        drop = rule.build()(document("12 34 56 78"))
        assert isinstance(drop, Drop) and drop.reason == "language_score"
        trusting = rule.model_copy(update={"trusted_letters": 100})
        assert trusting.build()(document("12 34 56 78")) == Keep()
    assert (rule.num_trusted_letters, LanguageRule().num_trusted_letters) == (0, 100)
    assert LanguageRule(trusted_letters=7).num_trusted_letters == 7


def test_a_language_that_the_model_does_not_know_is_refused(named: tuple[str, Path]) -> None:
    name, models = named
    with models_in(models), pytest.raises(ValueError, match=r"does not know fr; it knows de, en$"):
        LanguageRule(languages=("de", "fr"), model=name, min_score=0.6).build()


def test_another_file_than_the_recipe_names_is_refused_with_both_hashes(named: tuple[str, Path]) -> None:
    name, models = named
    sha256 = name.rpartition("=")[2]
    file = models / sha256 / SINGLE_FILE
    file.write_bytes(file.read_bytes() + b"x")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with models_in(models), pytest.raises(ValueError, match=f"{found}, and not {sha256}"):
        LanguageRule(model=name, min_score=0.6).build()


def test_a_model_of_other_classes_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "model.bin"
    train_fast_text([("Toxic", "one two"), ("other", "three four")] * 5, TRAINING, out, quantised=False)
    with pytest.raises(ValueError, match="no model of languages: one of its labels is 'Toxic'"):
        FastTextModel(out)


def test_a_model_has_its_own_limit() -> None:
    with pytest.raises(ValidationError, match=r"min_score: .* \(\.65 was published for lid\.176"):
        LanguageRule(model="lid.176.ftz")
    rule = LanguageRule(model="lid.176.ftz", min_score=0.65)
    assert rule.model.startswith("https://") and rule.min_score_of("en") == 0.65
    assert LanguageRule.model_validate_json(rule.model_dump_json()) == rule
    assert LanguageRule().min_score_of("en") == 0.5


def test_a_classifier_of_the_registry_is_no_model_of_languages() -> None:
    with pytest.raises(ValidationError, match="tell two classes apart"):
        LanguageRule(model="toxicity@champion", min_score=0.5)


def test_without_a_name_it_is_the_embedded_one() -> None:
    assert isinstance(language_model(""), EmbeddedModel)
    assert {"en", "de", "zh", "zxx"} <= EmbeddedModel().languages
    assert beginning(" \n" + "a" * 6000) == "a" * 5000
