"""One tokenizer for all versions of a corpus, until it is retrained; on one machine and on several."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from tasks.manifest import MANIFEST, read_manifest
from tasks.ports import InProcessMap
from tasks.recipes.pretraining import PretrainRecipe, resolve_pretrain_recipe
from tasks.store import Store
from tasks.tokenization import TokenizedCorpus, tokenize, tokenizer_line
from tasks.tokenizer import TOKENIZER_FILE, tokenizer_hash
from tasks.tokenizer_generations import TokenizerChoice, TokenizerLine
from tests.data.prose import prose
from tests.tasks.s3_server import s3_server
from tests.tasks.token_corpora import TEXTS, CountingMap, IdleMap, digest_of, make_corpus

OTHER_TEXTS = {name: prose(name, 4) for name in TEXTS}
"""Of another version, by which another tokenizer would be trained."""


@pytest.fixture
def recipe() -> PretrainRecipe:
    return resolve_pretrain_recipe("smoke", {"tokenizer.vocab_size": "330", "held_out_fraction": "0.2"})


def line_of(store: Store, recipe: PretrainRecipe, name: str = "small") -> TokenizerLine:
    return tokenizer_line(store, {"name": name}, recipe)


def retrained(store: Store, corpus: Path, recipe: PretrainRecipe) -> TokenizedCorpus:
    manifest = read_manifest(corpus)
    assert manifest is not None
    choice = line_of(store, recipe).choose(manifest["digest"], retrain=True)
    return tokenize(store, corpus, recipe, InProcessMap(), choice=choice)


def test_the_first_version_trains_and_later_ones_reuse(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    first = tokenize(store, make_corpus(store, 1), recipe, InProcessMap()).tokenizer
    assert first.facts == {"generation": 1, "sha256": tokenizer_hash(first.file), "trained_on": "small@1"}
    shards = CountingMap()
    second = tokenize(store, make_corpus(store, 2, OTHER_TEXTS), recipe, shards)
    assert second.tokenizer == first and "tokenizer" not in shards.ran
    assert first.file.samefile(second.folder / TOKENIZER_FILE)
    manifest = json.loads((first.folder / MANIFEST).read_text())
    assert (manifest["corpus"], manifest["corpus_digest"]) == ("small@1", digest_of(TEXTS))
    assert manifest["tokenizer"] == recipe.tokenizer.model_dump(mode="json")
    assert first.folder.relative_to(store.root).parts[:2] == ("tokenizers", "small")


def test_another_name_or_configuration_has_its_own(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    first = tokenize(store, make_corpus(store, 1), recipe, InProcessMap()).tokenizer
    other_name = tokenize(store, make_corpus(store, 1, OTHER_TEXTS, name="other"), recipe, InProcessMap()).tokenizer
    assert other_name.corpus == "other@1" and other_name.sha256 != first.sha256
    larger = resolve_pretrain_recipe("smoke", {"tokenizer.vocab_size": "340", "held_out_fraction": "0.2"})
    more_held_out = recipe.model_copy(update={"held_out_fraction": 0.4})
    corpus = make_corpus(store, 2, OTHER_TEXTS)
    for changed in (larger, more_held_out):
        made = tokenize(store, corpus, changed, InProcessMap()).tokenizer
        assert (made.generation, made.corpus) == (1, "small@2")
    assert tokenize(store, corpus, recipe, InProcessMap()).tokenizer == first


def test_a_retraining_makes_the_next_generation_once(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    corpora = [make_corpus(store, 1), make_corpus(store, 2, OTHER_TEXTS)]
    line = line_of(store, recipe)
    assert line.choose(digest_of(TEXTS), retrain=True) == TokenizerChoice(1, required_digest=digest_of(TEXTS))
    first = retrained(store, corpora[0], recipe)
    second = retrained(store, corpora[1], recipe)
    assert (first.tokenizer.generation, second.tokenizer.generation) == (1, 2)
    assert second.tokenizer.corpus == "small@2" and second.tokenizer.sha256 != first.tokenizer.sha256
    assert second.num_linked == 0
    for corpus, made in zip(corpora, (first, second), strict=True):
        again = retrained(store, corpus, recipe)
        assert (again.folder, again.tokenizer) == (made.folder, made.tokenizer)
    assert line.generations() == [1, 2]
    assert tokenize(store, corpora[0], recipe, InProcessMap()).tokenizer == second.tokenizer, "the latest"
    kept = tokenize(store, corpora[1], recipe, InProcessMap(), choice=line.chosen(1))
    assert kept.tokenizer == first.tokenizer, "who began with it goes on with it"


def test_a_generation_that_another_run_made_meanwhile_is_no_retraining(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    corpus, other = make_corpus(store, 1), make_corpus(store, 2, OTHER_TEXTS)
    line = line_of(store, recipe)
    either = line.choose(digest_of(TEXTS))
    retraining = line.choose(digest_of(TEXTS), retrain=True)
    made = tokenize(store, other, recipe, InProcessMap()).tokenizer
    assert tokenize(store, corpus, recipe, InProcessMap(), choice=either).tokenizer == made
    with pytest.raises(ValueError, match=r"generation 1 of the tokenizer of small has been trained on small@2 by"):
        tokenize(store, corpus, recipe, InProcessMap(), choice=retraining)


def test_two_at_once_make_one(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    corpora = [make_corpus(store, 1), make_corpus(store, 2, OTHER_TEXTS)]
    choice = line_of(store, recipe).choose("whichever")
    made: list[TokenizedCorpus] = []
    shards = CountingMap()
    threads = [
        threading.Thread(target=lambda c=corpus: made.append(tokenize(store, c, recipe, shards, choice=choice)))
        for corpus in corpora
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0].tokenizer == made[1].tokenizer
    assert shards.ran["tokenizer"] == 1


def test_a_damaged_tokenizer_is_refused(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    made = tokenize(store, make_corpus(store, 1), recipe, InProcessMap())
    content = made.tokenizer.file.read_text()
    made.tokenizer.file.unlink()
    made.tokenizer.file.write_text(content + "\n")
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged"):
        tokenize(store, make_corpus(store, 2, OTHER_TEXTS), recipe, IdleMap())


def test_a_folder_without_a_manifest_is_no_generation(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    line = line_of(store, recipe)
    assert line.generations() == []
    (line.folder / "7").mkdir(parents=True)
    (line.folder / ".tmp-1-abc").mkdir()
    assert line.generations() == []
    assert line.choose("d") == TokenizerChoice(1)


def test_machines_share_it_and_the_first_to_publish_wins(tmp_path: Path, recipe: PretrainRecipe) -> None:
    with s3_server() as bucket:
        remote = f"{bucket}/store"
        one, two, three = (Store.open(tmp_path / name, remote) for name in ("one", "two", "three"))
        alone = Store.open(tmp_path / "two")  # the second one's store, while the remote is not set
        unshared = tokenize(alone, make_corpus(alone, 2, OTHER_TEXTS), recipe, InProcessMap()).tokenizer
        shared = tokenize(one, make_corpus(one, 1), recipe, InProcessMap()).tokenizer
        assert line_of(three, recipe).generations() == [1]
        assert not three.tokenizers.exists(), "choosing fetches nothing"
        corpus = make_corpus(three, 2, OTHER_TEXTS)
        assert tokenize(three, corpus, recipe, CountingMap()).tokenizer.sha256 == shared.sha256

        overruled = tokenize(two, two.corpora / "small" / "2", recipe, InProcessMap()).tokenizer
        assert overruled.sha256 == shared.sha256 != unshared.sha256
        assert [path.name for path in overruled.folder.parent.iterdir()] == ["1"]
        shutil.rmtree(two.tokenizers)
        choice = line_of(two, recipe).choose(digest_of(OTHER_TEXTS), retrain=True)
        assert choice == TokenizerChoice(2, required_digest=digest_of(OTHER_TEXTS))
