"""One tokenizer for two corpora, and shards that are split by page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.ablation.tokens import page_shards, shared_tokenizer
from tasks.evaluation.bits_per_byte import document_texts
from tasks.pack import TokenShards
from tasks.ports import InProcessMap
from tasks.store import Store
from tasks.tokenizer import TokenizerConfig, is_held_out, load_tokenizer, tokenizer_hash
from tests.tasks.ablation.two_corpora import FRACTION, make_version, pages
from tests.tasks.token_corpora import IdleMap

CONFIG = TokenizerConfig(vocab_size=400)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_both_recipes_have_one_tokenizer_of_the_text_of_both(store: Store, tmp_path: Path) -> None:
    latin, greek = pages(range(30)), {page: "αβγδε " * 60 + str(page) for page in pages(range(100, 130))}
    corpora = [make_version(store, "a", latin), make_version(store, "b", greek)]
    file = shared_tokenizer(store, corpora, CONFIG, FRACTION, InProcessMap())
    tokens = {load_tokenizer(file).id_to_token(number) for number in range(CONFIG.vocab_size)}
    assert "Ġthe" in tokens
    assert any(token and token.startswith("Î±Î²") for token in tokens)  # α and β, byte by byte
    assert not list(file.parent.glob("both*"))
    assert shared_tokenizer(store, corpora[::-1], CONFIG, FRACTION, IdleMap()) == file


def test_shards_hold_out_the_pages_and_all_of_them(store: Store) -> None:
    own = pages(range(40))
    corpus = make_version(store, "a", own)
    tokenizer = shared_tokenizer(store, [corpus, corpus], CONFIG, FRACTION, InProcessMap())
    folder = page_shards(store, corpus, tokenizer, FRACTION, InProcessMap())
    assert folder.name.startswith(corpus[1][:16])
    for split, held_out in (("train", False), ("held_out", True)):
        shards = TokenShards(folder, "held_out" if held_out else "train")
        urls = {shards.document(number).url for number in range(shards.num_documents)}
        assert urls == {page for page in own if is_held_out(page, FRACTION) is held_out}, split
        texts = document_texts(shards, range(shards.num_documents), load_tokenizer(tokenizer))
        assert {own[shards.document(number).url] for number in range(shards.num_documents)} == set(texts)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["corpus_digest"] == corpus[1]
    assert manifest["tokenizer_sha256"] == tokenizer_hash(folder / "tokenizer.json")
    TokenShards(folder).verify()
    assert page_shards(store, corpus, tokenizer, FRACTION, IdleMap()) == folder
