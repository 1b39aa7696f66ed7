"""The quality rule: on the limit and under it, models of every kind, languages, and the embedded classifier."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.classifiers.bundle import embedded, load_bundle
from tasks.classifiers.labelled import read_labelled
from tasks.document import Document, Drop, Keep
from tasks.filters.quality_classifier import Quality
from tasks.model_cache import add_bundle, fetch_model
from tasks.model_files import models_in
from tasks.recipes.curation import CurationRecipe, check_rules, resolve_curation_recipe
from tasks.recipes.rules import rule
from tasks.text_features import features_of
from tests.benchmarks.quality_texts import WIKITEXT
from tests.benchmarks.train_quality import write_texts
from tests.tasks.share_model import page_text, write_model

Make = Callable[..., Document]
MENU = "Home\nProducts\nCart (0)\nSign in\nSubscribe\nTerms of use\nPrivacy policy\nContact us\n" * 6
ARTICLE = (
    "The lighthouse was built on the northern shore of the island in the early nineteenth century, after several ships"
    " had been lost on the reef. Its tower, which is twenty metres high, was made of granite from a quarry nearby, and"
    " the first lamp burned oil. The keepers lived in a house beside the tower until the light became automatic. During"
    " the war it was kept dark, and the lens was removed and stored in the town. Since then the building has been a"
    " museum, in which visitors can see the original mechanism and the journals of those who worked there."
)


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of models that has a model of one file, and the model's name."""
    folder = tmp_path_factory.mktemp("models")
    name = write_model(folder)
    fetch_model(name, folder / "models")
    return folder / "models", name


def score(one: Quality, document: Document) -> float | None:
    (check,) = one.checks()
    return check.figure(features_of(document))


def test_a_document_on_the_limit_stays_and_one_under_it_goes(one_file: tuple[Path, str], document: Make) -> None:
    models, name = one_file
    page = document(page_text(3, 4))
    with models_in(models):
        value = score(Quality(model=name, label="good", min_score=0.0), page)
        assert value is not None and value == round(value, 4)
        assert Quality(model=name, label="good", min_score=value).build()(page) == Keep()
        limit = round(value + 0.0001, 4)
        assert Quality(model=name, label="good", min_score=limit).build()(page) == Drop("quality", value, limit)


def test_the_other_label_means_the_opposite(one_file: tuple[Path, str], document: Make) -> None:
    models, name = one_file
    page = document(page_text(3, 4))
    with models_in(models):
        good, raw = (score(Quality(model=name, label=label), page) for label in ("good", "raw"))
    assert good is not None and raw is not None and good + raw == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("label", ["", "hq"])
def test_a_model_of_one_file_needs_one_of_its_labels(one_file: tuple[Path, str], label: str) -> None:
    models, name = one_file
    with models_in(models), pytest.raises(ValueError, match=r"has the labels (good, raw|raw, good): say which of them"):
        Quality(model=name, label=label).checks()


def test_a_classifier_names_its_label_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is for a model that is one file"):
        Quality(label="good").checks()


def test_without_a_limit_the_threshold_of_the_classifier_is_the_limit(document: Make) -> None:
    threshold = round(load_bundle(embedded("quality")).classifier.threshold, 4)
    assert threshold != 0.5 and Quality().limit("min_score") == threshold
    assert Quality(min_score=0.25).limit("min_score") == 0.25
    value = score(Quality(), document(MENU, language="en"))
    assert value is not None and value < threshold
    assert Quality().build()(document(MENU, language="en")) == Drop("quality", value, threshold)


def test_a_model_of_one_file_has_no_threshold_of_its_own(one_file: tuple[Path, str]) -> None:
    models, name = one_file
    with models_in(models):
        with pytest.raises(ValueError, match=r"no threshold is known: give quality\.min_score or quality\.keep_share"):
            Quality(model=name, label="good").build()
        Quality(model=name, label="good", min_score=0.5).build()
        Quality(model=name, label="good", keep_share=0.5).scoring().build()


def test_a_classifier_of_pieces_is_refused(tmp_path: Path) -> None:
    pieces = Quality(model=f"toxicity@1#sha256={add_bundle(embedded('toxicity'), tmp_path)}")
    with models_in(tmp_path), pytest.raises(ValueError, match=r"toxicity in .* was trained on the unit 'piece'"):
        pieces.checks()


def test_a_classifier_of_the_store_decides_as_the_embedded_one_that_it_is(tmp_path: Path, document: Make) -> None:
    sha256 = add_bundle(embedded("quality"), tmp_path)
    pinned = Quality(model=f"quality@3#sha256={sha256}")
    page = document(ARTICLE, language="en")
    with models_in(tmp_path):
        assert score(pinned, page) == score(Quality(), page)
        assert pinned.files() == (tmp_path / sha256 / "classifier.json",)
    with models_in(tmp_path / "empty"), pytest.raises(ValueError, match="is not in the store"):
        pinned.files()


def test_a_changed_model_is_refused_with_both_hashes(tmp_path: Path) -> None:
    name = write_model(tmp_path)
    path = fetch_model(name, tmp_path / "models")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with models_in(tmp_path / "models"), pytest.raises(ValueError, match=rf"{found}, and not {name.split('=')[1]}"):
        Quality(model=name, label="good").checks()


def test_an_unresolved_alias_is_refused() -> None:
    with pytest.raises(ValueError, match="of no fixed version yet"):
        Quality(model="quality@champion").files()


def test_what_the_classifier_has_not_learnt_to_read_passes(document: Make) -> None:
    keep_none = Quality(min_score=1.0).build()
    assert isinstance(keep_none(document(MENU, language="en")), Drop)
    assert isinstance(keep_none(document(MENU)), Drop)
    assert keep_none(document(MENU, language="de")) == Keep()


def test_the_embedded_classifier_prefers_an_article_to_a_menu(document: Make) -> None:
    article, menu = (score(Quality(), document(text, language="en")) for text in (ARTICLE, MENU))
    assert article is not None and menu is not None and article > menu


def test_the_embedded_classifier_is_what_its_card_says() -> None:
    bundle = load_bundle(embedded("quality"))
    classifier = bundle.classifier
    assert (classifier.unit, classifier.normaliser, classifier.positive) == ("document", "plain_line", "good")
    assert classifier.languages == ("en",) and classifier.data and classifier.licence
    card = (bundle.folder / "card.md").read_text()
    assert all(data.name in card for data in classifier.data)


@pytest.mark.skipif(not WIKITEXT.exists(), reason="needs ../shared/data (text and web)")
def test_the_windows_of_a_page_are_one_group_of_its_training(tmp_path: Path) -> None:
    for source in write_texts(tmp_path).labelled:
        groups = [row.group for row in read_labelled(source)]
        assert all(groups) and 1 < len(set(groups)) < len(groups) / 2


def test_white_space_does_not_count(document: Make) -> None:
    spread = "\n\n".join(ARTICLE.split(". "))
    assert score(Quality(), document(spread)) == score(Quality(), document(" ".join(spread.split())))


def test_dclm_ends_with_the_best_share_and_the_share_can_be_set() -> None:
    recipe = resolve_curation_recipe("dclm", {})
    assert recipe.share_rule is not None and recipe.quality_rules[-1] == recipe.share_rule
    assert [one for one in recipe.quality_rules if one not in recipe.document_rules] == [recipe.share_rule]
    other = resolve_curation_recipe("dclm", {"quality.keep_share": "0.1"})
    assert other.share_rule is not None and other.share_rule.keep_share == 0.1
    limited = resolve_curation_recipe("dclm", {"quality.keep_share": "null", "quality.min_score": "0.2"})
    assert limited.share_rule is None and limited.document_rules == limited.quality_rules
    for one in (recipe, other, limited):
        check_rules(one)


def test_a_share_is_kept_of_what_all_other_rules_have_left() -> None:
    best, other = rule("quality", keep_share=0.5), rule("gopher_quality")
    for wrong in (
        {"quality_rules": (best, other)},
        {"quality_rules": (best, best)},
        {"quality_rules": (other,), "toxicity_rules": (best,)},
    ):
        with pytest.raises(ValueError, match="stands last among quality_rules"):
            CurationRecipe(name="wrong", **wrong)
    assert CurationRecipe(name="right", quality_rules=(other, best)).share_rule == best


def test_a_recipe_with_a_share_comes_back_from_its_manifest() -> None:
    recipe = resolve_curation_recipe("dclm", {})
    assert CurationRecipe.model_validate_json(recipe.model_dump_json()) == recipe
