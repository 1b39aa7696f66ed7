"""The flow: refusals before any work, a report that changes nothing, a takedown with its record, one stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows import takedown as flow
from flows.takedown import TakedownParameters, check_takedown, takedown, takedown_command
from infra.mlflow_tracker import EXPERIMENT
from infra.settings import environment
from infra.tracking_client import client
from tasks.ports import InProcessMap
from tasks.purge import holds
from tasks.recipes.pretraining import smoke
from tasks.store import InUseError, Store
from tasks.takedown import TakedownQuery, find_documents
from tasks.takedown_audit import intents, write_intent
from tasks.tokenization import tokenize
from tests.tasks.page_store import add, near_copy, row, urls

BAD = TakedownParameters(domains=["bad.example"], reason="asked to")
APPLY = BAD.model_copy(update={"apply": True})
PURGE = BAD.model_copy(update={"apply": True, "purge": True})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """web@1 with token shards and web@2 hold bad.example and a copy; old@1 held it, old@2 does not; fine never did."""
    root = tmp_path_factory.mktemp("takedown")
    store = Store.open(root / "store")
    good = [row(seed, f"https://good.example/{seed}") for seed in range(10, 16)]
    bad = [row(1, "https://bad.example/1"), row(near_copy(1), "https://m.example/1", "2025-01-01T00:00:00Z")]
    add(store, "web", [*bad, *good])
    tokenize(store, store.corpus("web@1"), smoke(), InProcessMap())
    add(store, "web", [row(20, "https://good.example/20", "2025-01-01T00:00:00Z")])
    add(store, "old", [*bad, *good])
    shutil.rmtree(root / "old-pages")
    add(store, "old", good, replace=True)
    add(store, "fine", good)
    return root


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    shutil.copytree(made, tmp_path / "copy")
    store = Store.open(tmp_path / "copy" / "store")
    for name, value in environment(store).items():
        if not name.startswith("PREFECT_"):  # the harness has a server of its own
            monkeypatch.setenv(name, value)
    return store


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages in this process: what Ray does with them has tests of its own."""
    from contextlib import nullcontext

    monkeypatch.setattr(flow, "ray_cluster", lambda: nullcontext(InProcessMap()))


def files(store: Store) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.root.rglob("*") if path.is_file()}


def versions(store: Store) -> dict[str, list[int]]:
    return {name: store.versions(name) for name in store.names()}


def texts_gone(store: Store) -> bool:
    search = find_documents(store, TakedownQuery(domains=("bad.example",)))
    return not any(holds(version, search.records) for version in search.versions)


@pytest.mark.parametrize(
    ("named", "refusal"),
    [
        ({}, "nothing to take down"),
        ({"domains": ["com"]}, "'com' is a public suffix"),
        ({"urls": ["nonsense"]}, "'nonsense' is no URL"),
        ({"documents": ["1"]}, "'1' is no document id"),
        ({"domains": ["a.org"], "purge": True}, "give --apply with --purge"),
        ({"domains": ["a.org"], "name": "missing"}, "there is no corpus 'missing'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(store: Store, named: dict[str, Any], refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal) as caught:
        check_takedown(TakedownParameters(**named))
    assert "\n" not in str(caught.value)


def test_the_command_that_goes_on_is_the_one_that_was_given(store: Store) -> None:
    parameters = TakedownParameters(urls=["https://a.org/x y"], documents=["d"], name="web", only=True, apply=True)
    assert takedown_command(store, parameters) == (
        f"tokenmill takedown --store {store.root} --url 'https://a.org/x y' --document d --name web --only --apply"
    )


def test_a_purge_waits_for_nobody_and_disturbs_nobody(store: Store) -> None:
    with (
        store.lock("flow-somebody"),
        pytest.raises(InUseError, match="the flow run somebody is at work"),
        flow._standing_still(store, PURGE),
    ):
        pass
    with store.lock("corpus-fine"), pytest.raises(InUseError), flow._standing_still(store, APPLY):
        pass
    with store.lock("corpus-fine"), flow._standing_still(store, APPLY.model_copy(update={"name": "web"})):
        assert store.is_locked("corpus-web")


@pytest.mark.verify
def test_a_report_changes_nothing_and_names_everything(store: Store, server: None) -> None:
    takedown(BAD)  # MLflow makes its database when it is first asked
    before = files(store)
    report = takedown(BAD)
    assert {path for path, changed in files(store).items() if before.get(path) != changed} <= {
        path for path in before if "mlflow" in path.parts
    }
    assert report["num_asked"] == 1 and report["num_copies"] == 1 and not report["applied"]
    assert report["corpora"] == ["old", "web"] and list(report["held_by"]) == ["old@1", "web@1", "web@2"]
    assert [folder["corpora"] for folder in report["tokens"]] == [("old@1", "web@1")]  # the same documents
    assert set(report["sources"]) == {record["source_file"] for record in report["documents"]}
    json.dumps(report)


@pytest.mark.verify
def test_a_takedown_makes_new_versions_where_it_is_known_and_writes_its_record(
    store: Store, server: None, without_ray: None
) -> None:
    report = takedown(APPLY)
    assert versions(store) == {"fine": [1], "old": [1, 2, 3], "web": [1, 2, 3]}
    assert urls(store, "web@3") == {f"https://good.example/{n}" for n in (10, 11, 12, 13, 14, 15, 20)}
    assert urls(store, "old@3") == urls(store, "old@2")
    for name in ("web", "old"):  # old, too: a later crawl cannot bring it back
        assert "bad.example" in {rule["value"] for rule in store.corpus_manifest(name)["tombstones"]}
        assert {rule["reason"] for rule in store.corpus_manifest(name)["tombstones"]} == {"asked to"}
    [record] = store.audit.iterdir()
    written = json.loads(record.read_bytes())
    assert written == json.loads(json.dumps(report)) and record.stem == report["audit"]
    assert written["who"] and written["started"] <= written["finished"] and written["reason"] == "asked to"
    assert [version["corpus"] for version in written["versions"]] == ["old@3", "web@3"]
    assert "Every" not in record.read_text() and not any("text" in document for document in written["documents"])
    assert not texts_gone(store)  # of the old versions
    mlflow_client = client(store)
    experiment = mlflow_client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    [run] = mlflow_client.search_runs([experiment.experiment_id], "tags.`tokenmill.flow` = 'takedown'")
    assert run.data.tags["tokenmill.audit"] == report["audit"] and run.info.status == "FINISHED"
    assert {file.path for file in mlflow_client.list_artifacts(run.info.run_id)} >= {"takedown.json", "takedown.md"}

    again = takedown(APPLY)  # nothing is left to do: no version more
    assert versions(store) == {"fine": [1], "old": [1, 2, 3], "web": [1, 2, 3]} and again["versions"] == []
    assert add(store, "old", [row(1, "https://bad.example/1", "2026-01-01T00:00:00Z")])["documents_kept"] == 6


@pytest.mark.verify
def test_a_takedown_without_the_model_of_the_corpus_ends_before_anything_is_done(
    store: Store, server: None, without_ray: None
) -> None:
    """As on another machine, whose store has the versions alone."""
    folder = store.corpus("web@2")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    model = {"kind": "quality", "model": f"tone@1#sha256={'0' * 64}", "min_score": 0.5}
    manifest["recipe"]["quality_rules"].append(model)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Exception, match=f"made with {model['model']}.*doctor --store {store.root} --model ") as refused:
        takedown(APPLY)
    assert "\n" not in str(refused.value)
    assert versions(store) == {"fine": [1], "old": [1, 2], "web": [1, 2]} and not intents(store)


@pytest.mark.verify
def test_a_purge_leaves_no_text_anywhere(store: Store, server: None, without_ray: None) -> None:
    report = takedown(PURGE)
    assert texts_gone(store) and intents(store) == {}
    assert set(report["purged"]["versions"]) == {"old@1", "web@1", "web@2"}
    assert len(report["purged"]["tokens"]) == 1 and not list(store.tokens.iterdir())
    assert report["purged"]["stage_outputs"]
    before = report["purged"]["versions"]["web@1"]["digest_before"]
    assert before[:16] in report["purged"]["tokens"][0]
    assert "kept" in report["documents"][0]["versions"]["web@1"]  # the record says how it was


@pytest.mark.verify
@pytest.mark.parametrize("stopped", ["before", "published", "found"])
def test_a_takedown_that_was_stopped_is_ended_by_the_next(
    store: Store, server: None, without_ray: None, stopped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the intent, after the new versions, and in the middle of the purge."""

    class Killed(BaseException):
        pass

    def killed(*arguments: Any, **options: Any) -> None:
        raise Killed

    if stopped == "before":
        write_intent(
            store, "20200101T000000Z-000000", {"parameters": PURGE.model_dump(), "who": "x", "started": "then"}
        )
    else:
        monkeypatch.setattr(flow, {"published": "_versions_of", "found": "purge_stage_outputs"}[stopped], killed)
        if stopped == "published":
            monkeypatch.setattr(flow, "tag_models", killed)
        with pytest.raises(Killed):
            takedown(PURGE)
        monkeypatch.undo()
        monkeypatch.setenv("TOKENMILL_STORE", str(store.root))
        monkeypatch.setattr(flow, "ray_cluster", lambda: pytest.fail("everything was published before the kill"))
    [stopped_audit] = intents(store)
    elsewhere = TakedownParameters(domains=["nowhere.example"], apply=True)
    assert takedown(elsewhere)["num_targets"] == 0
    assert intents(store) == {} and texts_gone(store)
    record = json.loads((store.audit / f"{stopped_audit}.json").read_bytes())
    assert [version["corpus"] for version in record["versions"]] == ["old@3", "web@3"]
    assert set(record["purged"]["versions"]) == {"old@1", "web@1", "web@2"}
    assert versions(store) == {"fine": [1], "old": [1, 2, 3], "web": [1, 2, 3]}
    assert any("kept" in document["versions"].values() for document in record["documents"])
