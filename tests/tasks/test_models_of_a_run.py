"""A run takes a named model from the store and from nowhere else; one that is not there ends it before any work."""

from __future__ import annotations

import hashlib
import json
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.ray_map import ray_cluster
from tasks.classifiers.fast_text import FastTextTraining, train_fast_text
from tasks.curation import make_version
from tasks.language import LanguageRule
from tasks.model_cache import fetch_model
from tasks.model_files import models_in
from tasks.ports import InProcessMap, ShardMap
from tasks.recipes.curation import CurationRecipe, check_rules
from tasks.refresh import Refresh
from tasks.store import Store
from tests.data.prose import prose
from tests.tasks.page_store import recipe, row
from tests.tasks.preview.sampled import previewed
from tests.tasks.read.web_server import WebServer, web_server

PAGES = 12


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A fastText model that takes what mentions honey for German, and all else for English."""
    training = FastTextTraining(dim=4, epoch=25, lr=0.5, bucket=1000, word_ngrams=1, max_subword_chars=0, min_count=1)
    texts = [" ".join(prose(seed).split()) for seed in range(40)]
    examples = [("en", text) for text in texts] + [("de", f"{'honey ' * 40} {text}") for text in texts]
    file = tmp_path_factory.mktemp("model") / "lid.bin"
    train_fast_text(examples, training, file, quantised=False)
    return file.read_bytes()


@pytest.fixture
def server(language_model: bytes) -> Iterator[WebServer]:
    with web_server(language_model, name="/lid.bin") as served:
        yield served


def write_pages(folder: Path) -> None:
    """Ordinary pages, the last three of which mention honey."""
    rows = [row(seed, f"https://a.example/{seed}") for seed in range(PAGES - 3)]
    rows += [row("honey " * 60 + prose(100 + seed), f"https://b.example/{seed}") for seed in range(3)]
    folder.mkdir()
    (folder / "pages.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_pages(tmp_path / "web-pages")
    return Store.open(tmp_path / "store")


def with_model(server: WebServer, content: bytes) -> CurationRecipe:
    reference = f"{server.address}/lid.bin#sha256={hashlib.sha256(content).hexdigest()}"
    rule = LanguageRule(model=reference, min_score=0.5, trusted_letters=0, min_share=0, rough_check=False)
    return recipe(language=rule)


def planned(store: Store, chosen: CurationRecipe) -> Refresh:
    return Refresh.plan(store, "web", [str(store.root.parent / "web-pages")], chosen)


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)


@pytest.mark.usefixtures("no_connection")
def test_a_run_without_its_model_ends_before_any_work(store: Store, server: WebServer, language_model: bytes) -> None:
    chosen = with_model(server, language_model)
    command = ["tokenmill", "doctor", "--store", str(store.root), "--model", chosen.language.model, "--fetch"]
    said = f"is not in the store; bring it with `{shlex.join(command)}`"
    with pytest.raises(ValueError) as refused:
        planned(store, chosen)
    assert str(refused.value).endswith(said) and "\n" not in str(refused.value)
    with models_in(store.models), pytest.raises(ValueError) as checked:
        check_rules(chosen)
    assert str(checked.value).endswith(said)
    with pytest.raises(ValueError) as not_previewed:
        previewed(store, store.root.parent / "web-pages", chosen)
    assert str(not_previewed.value).endswith(said)
    assert server.requests == [] and not store.corpora.exists() and not store.work.exists()


def run_with_its_model(store: Store, server: WebServer, content: bytes, shard_map: ShardMap) -> None:
    chosen = with_model(server, content)
    _, manifest = make_version(planned(store, chosen), shard_map)
    assert manifest["documents_kept"] == PAGES - 3
    assert manifest["removed"]["language"] == {"language_other": 3}
    assert manifest["recipe"]["language"]["model"] == chosen.language.model


def test_a_run_takes_its_model_from_the_store_alone(
    store: Store, server: WebServer, language_model: bytes, request: pytest.FixtureRequest
) -> None:
    fetch_model(with_model(server, language_model).language.model, store.models)
    asked = len(server.requests)
    request.getfixturevalue("no_connection")
    run_with_its_model(store, server, language_model, InProcessMap())
    chain = previewed(store, store.root.parent / "web-pages", with_model(server, language_model)).chain
    assert chain.removed["language"] == {"language_other": 3}
    assert len(server.requests) == asked


@pytest.mark.verify
def test_workers_on_ray_find_the_model_too(store: Store, server: WebServer, language_model: bytes) -> None:
    fetch_model(with_model(server, language_model).language.model, store.models)
    with ray_cluster(1) as shard_map:
        run_with_its_model(store, server, language_model, shard_map)


def test_another_model_is_another_stage(store: Store, server: WebServer, language_model: bytes) -> None:
    """The hash in the name and that of the file both enter the fingerprint; the stages before keep theirs."""
    other = language_model + b"\0"
    for content in (language_model, other):
        folder = store.models / hashlib.sha256(content).hexdigest()
        folder.mkdir(parents=True)
        (folder / "model").write_bytes(content)
    one, two = (planned(store, with_model(server, content)).stages for content in (language_model, other))
    assert one["extract"].fingerprint == two["extract"].fingerprint
    assert one["language"].own_fingerprint != two["language"].own_fingerprint
