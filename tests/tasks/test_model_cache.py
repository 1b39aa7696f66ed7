"""A model comes into the store whole and as its hash says, or not at all: over real connections that go wrong."""

from __future__ import annotations

import functools
import hashlib
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.classifiers.bundle import CARD_FILE, Bundle
from tasks.model_cache import add_bundle, fetch_model, has_model
from tasks.model_files import CLASSIFIER_FILE, SINGLE_FILE, model_path, models_in
from tasks.transient import Backoff, UnavailableError
from tests.tasks.crawl_server import crawl_server
from tests.tasks.read.web_server import Trouble, web_server
from tests.tasks.small_bundle import small_bundle

CONTENT = random.Random(0).randbytes((11 << 20) + 7)  # three of our blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.transient.BACKOFF", Backoff(4, first_wait_s=0.01, max_wait_s=0.05, max_waiting_s=5.0))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("trained") / "taste")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "store" / "models"


def named(source: str, sha256: str = SHA256) -> str:
    return f"{source}#sha256={sha256}"


def left_in(models: Path) -> list[str]:
    """Everything in the folder of models, temporary or not."""
    return sorted(path.name for path in models.iterdir()) if models.is_dir() else []


@contextmanager
def redirecting_server(folder: Path) -> Iterator[str]:
    """A server without ranges that sends whoever asks for /old/... on to /new/..., in `folder`."""

    class Handler(SimpleHTTPRequestHandler):
        def send_head(self):  # type: ignore[no-untyped-def]
            if not self.path.startswith("/old/"):
                return super().send_head()
            self.send_response(302)
            self.send_header("Location", self.path.replace("/old/", "/new/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_file_is_fetched_once(models: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
        told.append((stage, done, total))

    with web_server(CONTENT, name="/m.bin") as server:
        reference = named(f"{server.address}/m.bin")
        path = fetch_model(reference, models, progress)
        assert path == models / SHA256 / SINGLE_FILE and path.read_bytes() == CONTENT
        asked = len(server.requests)
        assert fetch_model(reference, models, progress) == path and len(server.requests) == asked
    assert {stage for stage, *_ in told} == {"fetch m.bin"}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told) and told[-1][1:] == (len(CONTENT),) * 2
    with models_in(models):
        assert model_path(reference, None) == path
        assert model_path(named("/elsewhere.ftz"), None) == path  # the hash alone tells


def test_a_file_of_this_machine_is_copied(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.bin"
    file.write_bytes(CONTENT)
    fetch_model(named(str(file)), models)
    file.unlink()
    assert has_model(models, SHA256)


def test_another_file_is_refused_with_both_hashes_and_nothing_is_kept(models: Path) -> None:
    with web_server(CONTENT, name="/m.bin") as server, pytest.raises(ValueError) as refused:
        fetch_model(named(f"{server.address}/m.bin", "0" * 64), models)
    assert SHA256 in str(refused.value) and "0" * 64 in str(refused.value) and "\n" not in str(refused.value)
    assert left_in(models) == []


def test_what_is_not_there_leaves_nothing(models: Path, tmp_path: Path) -> None:
    with web_server(CONTENT, name="/m.bin") as server:
        with pytest.raises(ValueError, match="HTTP 404"):
            fetch_model(named(f"{server.address}/other.bin"), models)
        address = server.address
    with pytest.raises(UnavailableError, match="failed 4 times"):  # the server is gone
        fetch_model(named(f"{address}/m.bin"), models)
    with pytest.raises(ValueError, match=f"there is no file {tmp_path}/m.bin"):
        fetch_model(named(f"{tmp_path}/m.bin"), models)
    assert left_in(models) == []


@pytest.mark.parametrize("ranges", [True, False], ids=["parts", "whole"])
def test_a_body_that_is_cut_off_is_asked_for_again(models: Path, ranges: bool) -> None:
    with web_server(CONTENT, name="/m.bin", ranges=ranges) as server:
        server.troubles = [Trouble(cut_after=1000, method="GET"), Trouble(503, method="GET")]
        assert fetch_model(named(f"{server.address}/m.bin"), models).read_bytes() == CONTENT
        assert not server.troubles


def test_a_body_that_is_always_cut_off_leaves_nothing(models: Path) -> None:
    with web_server(CONTENT, name="/m.bin") as server:
        server.troubles = [Trouble(cut_after=1000, method="GET")] * 50
        with pytest.raises(UnavailableError, match="failed 4 times"):
            fetch_model(named(f"{server.address}/m.bin"), models)
        assert left_in(models) == []
        server.troubles = []
        assert fetch_model(named(f"{server.address}/m.bin"), models).is_file()


def test_a_redirect_is_followed(models: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "m.bin").write_bytes(CONTENT)
    with redirecting_server(tmp_path) as address:
        assert fetch_model(named(f"{address}/old/m.bin"), models).read_bytes() == CONTENT


def test_an_interrupted_fetch_leaves_nothing_that_counts(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.bin"
    file.write_bytes(CONTENT)

    def interrupt(stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model(named(str(file)), models, interrupt)
    assert left_in(models) == []
    killed = models / f".tmp-{SHA256}-0a1b2c3d"  # what a killed one leaves, and one of another model, still at it
    other = models / f".tmp-{'0' * 64}-0a1b2c3d"
    for folder in (killed, other):
        folder.mkdir()
        (folder / SINGLE_FILE).write_bytes(CONTENT[:1000])
    assert not has_model(models, SHA256)
    fetch_model(named(str(file)), models)
    assert left_in(models) == sorted([other.name, SHA256])


def test_two_at_the_same_time_read_it_once(models: Path) -> None:
    paths: list[Path] = []
    with web_server(CONTENT, name="/m.bin") as server:
        reference = named(f"{server.address}/m.bin")
        threads = [threading.Thread(target=lambda: paths.append(fetch_model(reference, models))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bytes_asked_for = sum(
            int(end) - int(start) + 1 for start, end in (each[6:].split("-") for each in server.seen("GET") if each)
        )
    assert paths == [models / SHA256 / SINGLE_FILE] * 4 and paths[0].read_bytes() == CONTENT
    assert bytes_asked_for < 2 * len(CONTENT)  # one copy, and what is looked at of the file's end


def test_a_damaged_model_is_brought_again(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.bin"
    file.write_bytes(CONTENT)
    path = fetch_model(named(str(file)), models)
    path.write_bytes(CONTENT[:-1])
    assert not has_model(models, SHA256)
    assert fetch_model(named(str(file)), models) == path and path.read_bytes() == CONTENT
    assert left_in(models) == [SHA256]


@pytest.mark.parametrize("reference", ["", "toxicity@champion", f"toxicity@3#sha256={SHA256}"])
def test_only_paths_and_addresses_are_fetched(models: Path, reference: str) -> None:
    with pytest.raises(ValueError, match="nothing to fetch"):
        fetch_model(reference, models)


def files_of(folder: Path) -> dict[str, bytes]:
    return {f"/taste/{file.name}": file.read_bytes() for file in folder.iterdir()}


def test_a_classifiers_folder_is_fetched_whole(models: Path, bundle: Bundle) -> None:
    with crawl_server(files_of(bundle.folder)) as server:
        folder = fetch_model(named(f"{server.address}/taste/", bundle.sha256), models)
    assert folder == models / bundle.sha256
    assert {f"/taste/{file.name}": file.read_bytes() for file in folder.iterdir()} == files_of(bundle.folder)
    local = models.parent / "local" / "models"
    assert fetch_model(named(str(bundle.folder), bundle.sha256), local) == local / bundle.sha256


@pytest.mark.parametrize("changed", ["model.bin", "seen.npy"])
def test_a_classifier_of_which_a_file_is_another_is_refused(models: Path, bundle: Bundle, changed: str) -> None:
    files = files_of(bundle.folder)
    stated = hashlib.sha256(files[f"/taste/{changed}"]).hexdigest()
    files[f"/taste/{changed}"] += b"!"
    found = hashlib.sha256(files[f"/taste/{changed}"]).hexdigest()
    with crawl_server(files) as server, pytest.raises(ValueError) as refused:
        fetch_model(named(f"{server.address}/taste/", bundle.sha256), models)
    assert stated in str(refused.value) and found in str(refused.value)
    assert left_in(models) == []


def test_a_folder_that_is_no_classifier_is_refused(models: Path, tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "taste").mkdir()
    with pytest.raises(ValueError, match=f"there is no file {tmp_path}/taste/{CLASSIFIER_FILE}"):
        fetch_model(named(str(tmp_path / "taste"), bundle.sha256), models)
    (tmp_path / "taste" / CLASSIFIER_FILE).write_text("{}")
    with pytest.raises(ValueError, match="is not understood"):
        fetch_model(named(str(tmp_path / "taste"), hashlib.sha256(b"{}").hexdigest()), models)
    assert left_in(models) == []


def test_a_trained_classifier_is_added_whole_and_once(models: Path, bundle: Bundle, tmp_path: Path) -> None:
    assert add_bundle(bundle.folder, models) == bundle.sha256
    there = models / bundle.sha256
    written = (there / CARD_FILE).stat().st_mtime_ns
    assert add_bundle(bundle.folder, models) == bundle.sha256
    assert (there / CARD_FILE).stat().st_mtime_ns == written and has_model(models, bundle.sha256)
    with models_in(models):
        assert model_path(f"taste@1#sha256={bundle.sha256}", None) == there
    (there / "seen.npy").write_bytes(b"another")
    assert not has_model(models, bundle.sha256)
    add_bundle(bundle.folder, models)
    assert has_model(models, bundle.sha256)
    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    (copy / "model.bin").write_bytes(b"another")
    with pytest.raises(ValueError, match=hashlib.sha256(b"another").hexdigest()):
        add_bundle(copy, tmp_path / "others" / "models")
    (copy / "model.bin").write_bytes((bundle.folder / "model.bin").read_bytes())
    (copy / CARD_FILE).unlink()
    with pytest.raises(ValueError, match=f"has no {CARD_FILE}"):
        add_bundle(copy, tmp_path / "others" / "models")
    assert left_in(tmp_path / "others" / "models") == []
