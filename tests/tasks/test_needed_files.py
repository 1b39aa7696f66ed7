"""Every file that a recipe reads is listed once, with what it may be used for, and looked at as it is on disk."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from tasks.atomic import write_json
from tasks.filters.word_list import LIST_FILE
from tasks.language import LanguageRule
from tasks.manifest import MANIFEST, SCHEMA_VERSION
from tasks.model_cache import add_bundle
from tasks.model_facts import FileFacts, PackagedFile
from tasks.model_files import KNOWN_MODELS, SINGLE_FILE
from tasks.needed_files import NeededFile, _packaged, needed_files, trained_tokenizers
from tasks.recipes.curation import CURATION_RECIPES, fineweb, smoke
from tasks.store import Store
from tests.tasks.small_bundle import small_bundle


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def by_name(files: tuple[NeededFile, ...]) -> dict[str, NeededFile]:
    assert len({file.name for file in files}) == len(files)
    return {file.name: file for file in files}


@pytest.mark.parametrize("name", CURATION_RECIPES)
def test_every_file_of_every_recipe_is_here_and_has_a_licence_and_an_origin(name: str, store: Store) -> None:
    recipe = CURATION_RECIPES[name]()
    files = needed_files([recipe], store)
    for file in files:
        assert not file.problem and file.licence and file.origin, file
        assert "not known" not in file.licence + file.origin, f"{file.name} has no row in tasks/model_facts.py"
        assert file.used_by and all(user.startswith(name) for user in file.used_by), file
        assert file.kind == "tokenizer" or (len(file.sha256) == 64 and file.size_bytes), file
    rules = (recipe.url_filter, recipe.language, *recipe.quality_rules, *recipe.toxicity_rules)
    hashes = {file.sha256 for file in files}
    for read in (file for part in (recipe.extraction, *rules) for file in part.files()):
        assert hashlib.sha256(read.read_bytes()).hexdigest() in hashes


def test_files_of_several_recipes_are_listed_once_with_all_users(store: Store) -> None:
    files = by_name(needed_files([fineweb(), smoke()], store))
    assert {"fineweb: language", "smoke: language"} <= set(files["py3langid: model.npz.xz"].used_by)
    assert files["word_list_en.txt"].used_by == ("fineweb: word_list",)
    assert files["word_list_en.txt"].size_bytes == LIST_FILE.stat().st_size
    assert files["words of en"].kind == "tokenizer" and "smoke: gopher_quality" in files["words of en"].used_by
    lists = "datatrove: url_filterblacklistsv0_3_0.tar.gz"
    assert files[lists].used_by == ("fineweb: url_filter",)  # smoke does without


def test_a_named_model_that_is_not_in_the_store_is_a_problem(store: Store) -> None:
    name, reference = next(iter(KNOWN_MODELS.items()))
    elsewhere = f"https://mirror.example/{reference.rpartition('/')[2]}"
    for model, named in ((name, reference), (reference, reference), (elsewhere, elsewhere)):
        (file,) = needed_files([], store, [model])
        assert (file.reference, file.licence) == (named, "CC-BY-SA-3.0")  # of the file, whatever it is called
    recipe = smoke().model_copy(update={"language": LanguageRule(model=name, min_score=0.65)})
    file = by_name(needed_files([recipe], store))[name]
    assert file.reference == reference and file.sha256 == reference[-64:] and file.size_bytes is None
    assert file.used_by == ("smoke: language",) and file.licence == "CC-BY-SA-3.0"
    assert file.problem == "it is not in the store: bring it with --fetch"


def test_models_in_the_store_are_looked_at_byte_by_byte(store: Store) -> None:
    content = b"model"
    sha256 = hashlib.sha256(content).hexdigest()
    reference = f"https://h/taste.bin#sha256={sha256}"
    (store.models / sha256).mkdir(parents=True)
    (store.models / sha256 / SINGLE_FILE).write_bytes(content)
    (file,) = needed_files([], store, [reference, reference])
    assert (file.name, file.size_bytes, file.sha256, file.problem) == ("taste.bin", 5, sha256, "")
    assert file.origin == "https://h/taste.bin" and file.licence.startswith("not known here")
    (store.models / sha256 / SINGLE_FILE).write_bytes(b"Model")
    (file,) = needed_files([], store, [reference])
    assert "is in the store, and not what its hash says" in file.problem


def test_a_classifier_speaks_for_itself(store: Store, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "taste")
    pinned = f"taste@3#sha256={add_bundle(bundle.folder, store.models)}"
    (file,) = needed_files([], store, [pinned])
    assert (file.name, file.licence, file.origin) == ("classifier taste", "CC0-1.0", "made up for a test")
    assert file.sha256 == bundle.sha256 and file.problem == "" and file.reference == pinned
    assert file.size_bytes == sum(each.stat().st_size for each in bundle.files())
    (store.models / bundle.sha256 / "seen.npy").write_bytes(b"another")
    (file,) = needed_files([], store, [pinned])
    assert "not what its hash says" in file.problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"words", ""), (b"Words", "its SHA-256 is"), (None, "it is missing in trees 1.0")],
    ids=["as installed", "changed", "gone"],
)
def test_a_file_of_a_package_is_compared_with_what_was_installed(
    content: bytes | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = base64.urlsafe_b64encode(hashlib.sha256(b"words").digest()).rstrip(b"=").decode()
    (tmp_path / "trees-1.0.dist-info").mkdir()
    (tmp_path / "trees-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: trees\nVersion: 1.0\n")
    (tmp_path / "trees-1.0.dist-info" / "RECORD").write_text(f"trees/words.txt,sha256={recorded},5\n")
    (tmp_path / "trees").mkdir()
    if content is not None:
        (tmp_path / "trees" / "words.txt").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = _packaged(PackagedFile("trees", "trees/words.txt", FileFacts("list", "CC0-1.0", "made up")))
    assert file.name == "trees: words.txt" and file.origin == "made up; inside trees 1.0"
    assert file.problem.startswith(problem) and bool(file.problem) == bool(problem)
    if content == b"Words":
        assert hashlib.sha256(b"words").hexdigest() in file.problem
        assert hashlib.sha256(b"Words").hexdigest() in file.problem


def test_tokenizers_of_the_store_are_listed_and_unfinished_ones_are_not(store: Store) -> None:
    assert trained_tokenizers(store) == ()
    for generation in ("1", "2"):
        folder = store.tokenizers / "docs" / "0a1b" / generation
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text("{}")
    write_json(folder / MANIFEST, {"schema_version": SCHEMA_VERSION, "corpus": "docs@4"})
    (file,) = trained_tokenizers(store)
    assert (file.name, file.kind, file.origin) == ("docs, generation 2", "tokenizer", "trained on docs@4")
    assert file.sha256 == hashlib.sha256(b"{}").hexdigest() and file.used_by == ("pretraining on docs",)
