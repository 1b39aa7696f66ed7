"""Token shards of a corpus version: made once, found by their digest, shared through a remote."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.manifest import MANIFEST, SCHEMA_VERSION
from tasks.pack import TokenShards
from tasks.ports import InProcessMap
from tasks.recipes.pretraining import PretrainRecipe, resolve_pretrain_recipe
from tasks.store import Store
from tasks.tokenization import TOKENIZER_FILE, find_tokens, tokenize
from tests.tasks.s3_server import objects, s3_server

T = TypeVar("T")
R = TypeVar("R")


def make_corpus(store: Store) -> Path:
    """Version 1 of the corpus "small": two buckets of ten documents."""
    folder = store.corpora / "small" / "1"
    (folder / "documents").mkdir(parents=True)
    parts = []
    for bucket in range(2):
        ids = [f"{bucket}{number:031x}-0" for number in range(10)]
        columns = {
            "document_id": ids,
            "cluster_id": ids,
            "url": ["http://example.org/"] * 10,
            "source": ["test"] * 10,
            "text": [
                f"Document {number} of bucket {bucket} tells of rain, wind and sun. " * 20 for number in range(10)
            ],
        }
        part = folder / "documents" / f"bucket-{bucket:03d}.parquet"
        pq.write_table(pa.table(columns), part)
        parts.append(
            {"path": f"documents/{part.name}", "sha256": hashlib.sha256(part.read_bytes()).hexdigest()},
        )
    manifest = {"schema_version": SCHEMA_VERSION, "name": "small", "version": 1, "digest": "d" * 64, "parts": parts}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def recipe() -> PretrainRecipe:
    return resolve_pretrain_recipe("smoke", {"tokenizer.vocab_size": "300", "held_out_fraction": "0.2"})


class IdleMap:
    """A `ShardMap` for where nothing is left to be done."""

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        name: str,
        on_done: Callable[[int, R], None] | None = None,
    ) -> list[R]:
        raise AssertionError(f"{name} was run again")


def seen_by(store: Store) -> list[str]:
    return [path.name for path in store.tokens.iterdir()]


def test_shards_are_made_once(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    corpus = make_corpus(store)
    tokens = tokenize(store, corpus, recipe, InProcessMap())
    shards = TokenShards(tokens, "train")
    shards.verify()
    assert shards.num_documents + TokenShards(tokens, "held_out").num_documents == 20
    assert (tokens / TOKENIZER_FILE).is_file()
    shutil.rmtree(store.work)  # intermediates, which `gc` may remove
    told: list[Any] = []
    again = tokenize(store, corpus, recipe, IdleMap(), lambda *args, **named: told.append((*args, named["note"])))
    assert again == tokens
    assert told == [("tokenizer", 1, 1, "made before"), ("tokens", 1, 1, "made before")]
    other = recipe.model_copy(update={"held_out_fraction": 0.3})
    assert tokenize(store, corpus, other, InProcessMap()) != tokens


def test_shards_are_found_by_their_digest(tmp_path: Path, recipe: PretrainRecipe) -> None:
    store = Store.open(tmp_path)
    tokens = tokenize(store, make_corpus(store), recipe, InProcessMap())
    digest = TokenShards(tokens, "held_out").digest
    assert find_tokens(store, corpus_digest="d" * 64, tokens_digest=digest) == tokens
    for corpus_digest, tokens_digest in [("e" * 64, digest), ("d" * 64, "0" * 64)]:
        with pytest.raises(ValueError, match=r"no token shards with the digest .* run `tokenmill pretrain`"):
            find_tokens(store, corpus_digest=corpus_digest, tokens_digest=tokens_digest)


def test_what_is_no_corpus_version_is_refused(tmp_path: Path, recipe: PretrainRecipe) -> None:
    with pytest.raises(ValueError, match=r"holds no manifest\.json"):
        tokenize(Store.open(tmp_path), tmp_path, recipe, InProcessMap())


def test_another_machine_takes_the_shards_from_the_remote(tmp_path: Path, recipe: PretrainRecipe) -> None:
    with s3_server() as bucket:
        remote = f"{bucket}/store"
        one, two, three = (Store.open(tmp_path / name, remote) for name in ("one", "two", "three"))
        one.upload(make_corpus(one))
        made = tokenize(one, one.corpus("small"), recipe, InProcessMap())
        taken = tokenize(two, two.corpus("small"), recipe, IdleMap())
        assert taken == two.tokens / made.name
        TokenShards(taken, "train").verify()
        digest = TokenShards(made, "held_out").digest
        assert TokenShards(taken, "held_out").digest == digest
        assert find_tokens(three, corpus_digest="d" * 64, tokens_digest=digest) == three.tokens / made.name
        assert seen_by(three) == [made.name]
        assert f"tokens/{made.name}/manifest.json" in objects(remote)
        with pytest.raises(ValueError, match="no token shards"):
            find_tokens(three, corpus_digest="d" * 64, tokens_digest="0" * 64)


def test_shards_that_could_not_be_sent_are_sent_next_time(tmp_path: Path, recipe: PretrainRecipe) -> None:
    made = tokenize(Store.open(tmp_path), make_corpus(Store.open(tmp_path)), recipe, InProcessMap())
    with s3_server() as bucket:
        remote = f"{bucket}/store"
        store = Store.open(tmp_path, remote)
        assert tokenize(store, store.corpus("small"), recipe, IdleMap()) == made
        assert f"tokens/{made.name}/manifest.json" in objects(remote)
