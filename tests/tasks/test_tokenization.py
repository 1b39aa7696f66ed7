"""Token shards of a corpus version: each bucket packed once, found by their digest, shared through a remote."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tasks.pack
from tasks.manifest import MANIFEST
from tasks.pack import TokenShards
from tasks.ports import InProcessMap, ShardError
from tasks.recipes.pretraining import PretrainRecipe, resolve_pretrain_recipe
from tasks.store import Store
from tasks.tokenization import find_tokens, tokenize
from tasks.tokenizer import TOKENIZER_FILE, is_held_out
from tests.tasks.s3_server import objects, s3_server
from tests.tasks.token_corpora import NUM_BUCKETS, TEXTS, CountingMap, IdleMap, digest_of, make_corpus

CHANGED = next(iter(TEXTS))
"""A document of the first bucket."""
NEXT_TEXTS = {**TEXTS, CHANGED: "Another text altogether, of another length, under the same id."}


@pytest.fixture
def recipe() -> PretrainRecipe:
    return resolve_pretrain_recipe("smoke", {"tokenizer.vocab_size": "300", "held_out_fraction": "0.2"})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shared_files(one: Path, other: Path) -> set[str]:
    """Names of the files that are the same file in both folders."""
    return {path.name for path in one.iterdir() if (other / path.name).is_file() and path.samefile(other / path.name)}


def from_scratch(path: Path, store: Store, version: int, recipe: PretrainRecipe) -> dict[str, bytes]:
    """What a version is packed to where nothing is but that version and the tokenizers of `store`."""
    fresh = Store.open(path)
    shutil.copytree(store.tokenizers, fresh.tokenizers)
    shutil.copytree(store.corpora / "small" / str(version), fresh.corpora / "small" / str(version))
    made = tokenize(fresh, fresh.corpus("small"), recipe, InProcessMap())
    assert (made.num_linked, made.num_packed) == (0, NUM_BUCKETS)
    return content(made.folder)


def test_shards_are_made_once(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    corpus = make_corpus(store)
    made = tokenize(store, corpus, recipe, InProcessMap())
    assert (made.num_linked, made.num_packed) == (0, NUM_BUCKETS)
    shards = TokenShards(made.folder, "train")
    shards.verify()
    assert shards.num_documents + TokenShards(made.folder, "held_out").num_documents == len(TEXTS)
    assert (made.folder / TOKENIZER_FILE).samefile(made.tokenizer.file)
    shutil.rmtree(store.work)  # intermediates, which `gc` may remove
    told: list[Any] = []
    again = tokenize(store, corpus, recipe, IdleMap(), lambda *args, **named: told.append((*args, named["note"])))
    assert (again.folder, again.num_linked, again.num_packed) == (made.folder, 0, 0)
    assert told == [("tokenizer", 1, 1, "generation 1, made before"), ("tokens", 1, 1, "made before")]
    other = recipe.model_copy(update={"held_out_fraction": 0.3})
    assert tokenize(store, corpus, other, InProcessMap()).folder != made.folder


def test_a_corpus_is_packed_with_the_tokenizer_of_another_one(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    first = tokenize(store, make_corpus(store), recipe, InProcessMap())
    other = make_corpus(store, 1, {"other": "zebra quartz jukebox " * 40, **NEXT_TEXTS}, name="other")
    own = tokenize(store, other, recipe, InProcessMap())
    mixed = tokenize(store, other, recipe, InProcessMap(), tokenizer=first.tokenizer)
    assert mixed.tokenizer == first.tokenizer != own.tokenizer
    assert mixed.folder != own.folder
    one, two = TokenShards(first.folder, "train"), TokenShards(mixed.folder, "train")
    assert one.tokenizer_sha256 == two.tokenizer_sha256 != TokenShards(own.folder, "train").tokenizer_sha256
    assert two.corpus_digest == TokenShards(own.folder, "train").corpus_digest


def test_one_changed_document_has_one_bucket_packed(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path / "store")
    first = tokenize(store, make_corpus(store, 1), recipe, InProcessMap())
    shutil.rmtree(store.work)
    shards = CountingMap()
    told: list[Any] = []
    second = tokenize(
        store,
        make_corpus(store, 2, NEXT_TEXTS),
        recipe,
        shards,
        lambda *values, **named: told.append((*values, named.get("note", ""))),
    )
    assert shards.ran == {"tokens": 1}
    assert (second.num_linked, second.num_packed) == (NUM_BUCKETS - 1, 1)
    assert told[1:] == [
        ("tokens", NUM_BUCKETS - 1, NUM_BUCKETS, ""),
        ("tokens", NUM_BUCKETS, NUM_BUCKETS, "3 buckets linked, 1 packed"),
    ]
    linked = {name for name in content(second.folder) if name.startswith(("bucket-001", "bucket-002", "bucket-003"))}
    assert len(linked) == 12
    assert shared_files(first.folder, second.folder) == {*linked, TOKENIZER_FILE}
    assert content(second.folder) == from_scratch(tmp_path / "fresh", store, 2, recipe)
    TokenShards(second.folder, "train").verify()


def test_a_version_of_the_same_documents_is_linked_without_any_work(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    tokenize(store, make_corpus(store, 1), recipe, InProcessMap())
    tokenize(store, make_corpus(store, 2, NEXT_TEXTS), recipe, InProcessMap())
    mixed = {name: text for name, text in NEXT_TEXTS.items() if name[0] != "3"}  # a bucket has become empty
    two_empty = {name: text for name, text in mixed.items() if name[0] != "2"}
    third = tokenize(store, make_corpus(store, 3, two_empty), recipe, InProcessMap())
    assert (third.num_linked, third.num_packed) == (2, 2)
    fourth = tokenize(store, make_corpus(store, 4, mixed), recipe, IdleMap())  # from three folders together
    assert (fourth.num_linked, fourth.num_packed) == (NUM_BUCKETS, 0)
    TokenShards(fourth.folder, "train").verify()


def test_what_is_no_part_of_the_tokens_may_change(tmp_path: Path, recipe: PretrainRecipe) -> None:
    """A new copy of a kept document changes its cluster's size, hence the file, and nothing that is packed."""
    store = Store.open(tmp_path / "store")
    first = tokenize(store, make_corpus(store, 1), recipe, InProcessMap())
    shutil.rmtree(store.work)
    second = tokenize(store, make_corpus(store, 2, NEXT_TEXTS, cluster_size=2), recipe, InProcessMap())
    assert (second.num_linked, second.num_packed) == (NUM_BUCKETS - 1, 1)
    assert len(shared_files(first.folder, second.folder)) == 4 * (NUM_BUCKETS - 1) + 1
    assert content(second.folder) == from_scratch(tmp_path / "fresh", store, 2, recipe)
    third = tokenize(store, make_corpus(store, 3, {**NEXT_TEXTS, "0f": "new"}, cluster_size=2), recipe, InProcessMap())
    assert (third.num_linked, third.num_packed) == (NUM_BUCKETS - 1, 1)


def test_nothing_is_linked_that_would_be_packed_otherwise(
    tmp_path: Path, recipe: PretrainRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path)
    tokenize(store, make_corpus(store, 1), recipe, InProcessMap())
    corpus = make_corpus(store, 2, NEXT_TEXTS)
    other_split = recipe.model_copy(update={"held_out_fraction": 0.3})
    assert tokenize(store, corpus, other_split, InProcessMap()).num_linked == 0
    other_tokenizer = resolve_pretrain_recipe("smoke", {"tokenizer.vocab_size": "310", "held_out_fraction": "0.2"})
    assert tokenize(store, corpus, other_tokenizer, InProcessMap()).num_linked == 0
    monkeypatch.setattr(tasks.pack, "code_version", lambda *modules: "changed")
    assert tokenize(store, corpus, recipe, InProcessMap()).num_linked == 0


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_bucket_is_packed_again(tmp_path: Path, recipe: PretrainRecipe, damage: str) -> None:
    store = Store.open(tmp_path / "store")
    first = tokenize(store, make_corpus(store, 1), recipe, InProcessMap())
    shutil.rmtree(store.work)
    file = first.folder / "bucket-002.train.bin"
    data = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(data[:-2])
    second = tokenize(store, make_corpus(store, 2, NEXT_TEXTS), recipe, InProcessMap())
    assert (second.num_linked, second.num_packed) == (NUM_BUCKETS - 2, 2)
    assert content(second.folder) == from_scratch(tmp_path / "fresh", store, 2, recipe)


def test_an_exception_of_the_split_matters_in_its_own_bucket_alone(tmp_path: Path, recipe: PretrainRecipe) -> None:
    """With so small a share no cluster is held out by its hash, but one as an exception; here it moves."""
    recipe = recipe.model_copy(update={"held_out_fraction": 1e-6})
    by_hash = sorted(TEXTS, key=lambda name: next(k for k in range(1, 10**6) if is_held_out(name, k / 1000)))
    before, after = by_hash[1], by_hash[0]
    assert before[0] != after[0], "they are in two buckets"
    store = Store.open(tmp_path / "store")
    without = {name: text for name, text in TEXTS.items() if name != after}
    first = tokenize(store, make_corpus(store, 1, without), recipe, InProcessMap())
    assert TokenShards(first.folder, "held_out").document_ids() == [before]
    second = tokenize(store, make_corpus(store, 2), recipe, InProcessMap())
    assert TokenShards(second.folder, "held_out").document_ids() == [after]
    assert (second.num_linked, second.num_packed) == (NUM_BUCKETS - 2, 2)
    assert content(second.folder) == from_scratch(tmp_path / "fresh", store, 2, recipe)


def test_shards_are_found_by_their_digest(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    tokens = tokenize(store, make_corpus(store), recipe, InProcessMap()).folder
    corpus_digest, digest = digest_of(TEXTS), TokenShards(tokens, "held_out").digest
    assert find_tokens(store, corpus_digest=corpus_digest, tokens_digest=digest) == tokens
    for wrong_corpus, wrong_tokens in [("e" * 64, digest), (corpus_digest, "0" * 64)]:
        with pytest.raises(ValueError, match=r"no token shards with the digest .* run `tokenmill pretrain`"):
            find_tokens(store, corpus_digest=wrong_corpus, tokens_digest=wrong_tokens)


def test_shards_that_a_purge_has_removed_are_told_from_missing_ones(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    file = make_corpus(store) / "manifest.json"
    purged = [{"audit": "20260101T000000Z-abcdef", "digest_before": "e" * 64}]
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"purged": purged}))
    with pytest.raises(ValueError, match=r"purged from small@1 \(record 20260101T000000Z-abcdef\); train"):
        find_tokens(store, corpus_digest="e" * 64, tokens_digest="0" * 64)


def test_what_is_no_corpus_version_is_refused(tmp_path: Path, recipe: PretrainRecipe) -> None:
    with pytest.raises(ValueError, match=r"holds no manifest\.json"):
        tokenize(Store.open(tmp_path), tmp_path, recipe, InProcessMap())


def test_a_damaged_version_is_refused(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    corpus = make_corpus(store)
    stray = corpus / "documents" / "stray.parquet"
    shutil.copyfile(corpus / "documents" / "bucket-000.parquet", stray)
    with pytest.raises(ValueError, match=r"stray\.parquet is no part of its version"):
        tokenize(store, corpus, recipe, InProcessMap())
    stray.unlink()
    shutil.copyfile(corpus / "documents" / "bucket-002.parquet", corpus / "documents" / "bucket-001.parquet")
    with pytest.raises(ShardError, match=r"bucket-001\.parquet is damaged: it is not what its version's manifest"):
        tokenize(store, corpus, recipe, InProcessMap())
    assert not list(store.tokens.glob("*"))


def test_a_kill_among_the_buckets_leaves_those_that_are_packed(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path / "store")
    corpus = make_corpus(store)
    script = """
import os, signal, sys
from pathlib import Path
import tasks.packed_buckets
from tasks.ports import InProcessMap
from tasks.recipes.pretraining import PretrainRecipe
from tasks.store import Store
from tasks.tokenization import tokenize
done = 0
def progress(stage, number, total, **_):
    if stage == "tokens" and number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
recipe = PretrainRecipe.model_validate_json(sys.argv[3])
tokenize(Store.open(sys.argv[1]), Path(sys.argv[2]), recipe, InProcessMap(), progress)
"""
    command = [sys.executable, "-c", script, str(store.root), str(corpus), recipe.model_dump_json()]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert not list(store.tokens.glob(f"*/{MANIFEST}"))
    shards = CountingMap()
    made = tokenize(store, corpus, recipe, shards)
    assert shards.ran == {"tokens": NUM_BUCKETS - 2}
    assert content(made.folder) == from_scratch(tmp_path / "fresh", store, 1, recipe)


def test_another_machine_takes_the_shards_from_the_remote(tmp_path: Path, recipe: PretrainRecipe) -> None:
    with s3_server() as bucket:
        remote = f"{bucket}/store"
        one, two, three = (Store.open(tmp_path / name, remote) for name in ("one", "two", "three"))
        one.upload(make_corpus(one))
        made = tokenize(one, one.corpus("small"), recipe, InProcessMap()).folder
        taken = tokenize(two, two.corpus("small"), recipe, IdleMap()).folder
        assert taken == two.tokens / made.name
        assert content(taken) == content(made)
        digest = TokenShards(made, "held_out").digest
        corpus_digest = digest_of(TEXTS)
        assert find_tokens(three, corpus_digest=corpus_digest, tokens_digest=digest) == three.tokens / made.name
        assert [path.name for path in three.tokens.iterdir()] == [made.name]
        with pytest.raises(ValueError, match="no token shards"):
            find_tokens(three, corpus_digest=corpus_digest, tokens_digest="0" * 64)


def test_of_the_next_version_only_the_packed_bucket_is_sent(tmp_path: Path, recipe: PretrainRecipe) -> None:
    with s3_server() as bucket:
        remote = f"{bucket}/store"
        store = Store.open(tmp_path / "one", remote)
        tokenize(store, make_corpus(store, 1), recipe, InProcessMap())
        before = objects(remote)
        second = tokenize(store, make_corpus(store, 2, NEXT_TEXTS), recipe, InProcessMap())
        sent = {name: data for name, data in objects(remote).items() if before.get(name) != data}
        folder = f"tokens/{second.folder.name}"
        assert sum(name.startswith(folder) for name in sent) == 2, "list and manifest"
        files = {name: (second.folder / name).read_bytes() for name in content(second.folder) if "bucket-000" in name}
        new = [data for data in files.values() if data not in before.values()]
        assert sorted(data for name, data in sent.items() if name.startswith("objects/")) == sorted(new)
        assert len(sent) == 2 + len(new) and new

        other = Store.open(tmp_path / "two", remote)
        for version, texts in ((1, TEXTS), (2, NEXT_TEXTS)):
            taken = tokenize(other, make_corpus(other, version, texts), recipe, IdleMap())
        assert content(taken.folder) == content(second.folder)


def test_shards_that_could_not_be_sent_are_sent_next_time(tmp_path: Path, recipe: PretrainRecipe) -> None:
    made = tokenize(Store.open(tmp_path), make_corpus(Store.open(tmp_path)), recipe, InProcessMap())
    with s3_server() as bucket:
        remote = f"{bucket}/store"
        store = Store.open(tmp_path, remote)
        assert tokenize(store, store.corpus("small"), recipe, IdleMap()).folder == made.folder
        assert f"tokens/{made.folder.name}/manifest.json" in objects(remote)
        there = f"{made.tokenizer.folder.relative_to(store.root).as_posix()}/manifest.json"
        assert json.loads(objects(remote)[there])["sha256"] == made.tokenizer.sha256
