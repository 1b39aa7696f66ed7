import asyncio
import concurrent.futures
import json
from pathlib import Path

import pytest
from prefect.exceptions import Abort, CancelledRun, TerminationSignal

from infra.mlflow_tracker import EXPERIMENT, tracked_run
from infra.tracking_client import client
from tasks.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.open(tmp_path_factory.mktemp("store"))
    (store.root / "mlflow" / "artifacts").mkdir(parents=True)
    return store


def test_what_is_recorded_can_be_read_back(store: Store, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    with tracked_run(store, "a run", tags={"tokenmill.flow": "test"}) as tracker:
        tracker.parameters({"recipe": {"quality": [{"kind": "gopher", "min_words": 50}], "name": "x"}})
        tracker.parameters({"recipe": {"name": "x"}})  # saying it again is no error
        tracker.metric_rows([(step, {"loss": 1 / step}) for step in range(1, 1501)])
        assert tracker.last_step("loss") == 1500 and tracker.last_step("other") == -1
        tracker.dataset("web@1", "ab" * 32, tmp_path, context="training", profile={"documents": 7})
        tracker.artifact(tmp_path / "note.txt", "notes")
    run = client(store).get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "a run"
    assert run.data.params == {
        "recipe.quality.gopher.min_words": "50",
        "recipe.quality.gopher.kind": "gopher",
        "recipe.name": "x",
    }
    assert run.data.metrics["loss"] == pytest.approx(1 / 1500)
    assert run.inputs is not None
    dataset = run.inputs.dataset_inputs[0]
    assert (dataset.dataset.name, dataset.dataset.digest) == ("web@1", ("ab" * 32)[:36])
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "training"}
    assert json.loads(str(dataset.dataset.profile)) == {"documents": 7}
    assert run.data.tags["tokenmill.corpus_digest"] == "ab" * 32
    artifacts = store.root / "mlflow" / "artifacts" / tracker.run_id / "artifacts"
    assert (artifacts / "notes" / "note.txt").read_text() == "hello"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no such corpus"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(1), "KILLED"),
        (asyncio.CancelledError(), "KILLED"),
        (concurrent.futures.CancelledError(), "KILLED"),
        (TerminationSignal(signal=15), "KILLED"),
        (Abort(), "KILLED"),
        (CancelledRun("by a person"), "KILLED"),
    ],
)
def test_a_run_ends_as_what_happened_to_it(store: Store, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), tracked_run(store, "bad", tags={}) as tracker:
        raise error
    run = client(store).get_run(tracker.run_id)
    assert run.info.status == status
    assert ("no such corpus" in run.data.tags.get("tokenmill.error", "")) == (status == "FAILED")


def test_a_run_that_was_killed_is_ended_by_the_next_holder_of_its_lock(store: Store) -> None:
    other = tracked_run(store, "other name", tags={}, lock="corpus-other")
    killed = tracked_run(store, "killed", tags={}, lock="corpus-web")
    running, dead = other.__enter__(), killed.__enter__()  # as a SIGKILL leaves them
    with tracked_run(store, "next", tags={}, lock="corpus-web"):
        assert client(store).get_run(dead.run_id).info.status == "KILLED"
        assert client(store).get_run(running.run_id).info.status == "RUNNING"
    killed.__exit__(None, None, None)
    other.__exit__(None, None, None)


def test_a_run_can_be_continued_and_have_a_parent(store: Store) -> None:
    with (
        tracked_run(store, "parent", tags={}) as parent,
        tracked_run(store, "child", tags={}) as child,
    ):
        child.metrics({"loss": 2.0}, step=1)
    with tracked_run(store, "child again", tags={"again": "yes"}, resume=child.run_id) as resumed:
        assert resumed.run_id == child.run_id
        resumed.metrics({"loss": 1.0}, step=2)
    run = client(store).get_run(child.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id and run.data.tags["again"] == "yes"
    assert len(client(store).get_metric_history(child.run_id, "loss")) == 2
    with tracked_run(store, "lost", tags={}, resume="0" * 32) as other:  # the history was cleared
        assert other.run_id != "0" * 32
    assert client(store).get_experiment_by_name(EXPERIMENT) is not None


def test_a_run_says_with_what_and_on_what_it_was_made(store: Store) -> None:
    with tracked_run(store, "first name", tags={}) as tracker:
        tracker.json({"b": 1, "a": ["ü"]}, "config.json")
        tracker.text("**card**", "cards/card.md")
        tracker.rename("better name")
        tracker.settle()
        run = client(store).get_run(tracker.run_id)
        assert (run.info.run_name, run.info.status) == ("better name", "RUNNING")
        assert tracker.experiment_id == run.info.experiment_id and tracker.artifact_uri == run.info.artifact_uri
    artifacts = store.root / "mlflow" / "artifacts" / tracker.run_id / "artifacts"
    assert (artifacts / "config.json").read_text() == '{\n "a": [\n  "ü"\n ],\n "b": 1\n}\n'
    assert (artifacts / "cards" / "card.md").read_text() == "**card**"
    assert "\nmlflow==" in (artifacts / "environment.txt").read_text()
    assert 0 <= client(store).get_run(tracker.run_id).data.metrics["system/cpu_utilization_percentage"] <= 100


def test_parent_and_child_lead_to_each_other(store: Store) -> None:
    with tracked_run(store, "a pipeline", tags={"prefect.flow_run_url": "http://127.0.0.1:1/runs/x"}) as parent:
        with tracked_run(store, "a part", tags={}) as child:
            child.rename("web@1")
            child.describe("What the part did.")
        parent.describe("What was done.")
    notes = {
        run_id: client(store).get_run(run_id).data.tags["mlflow.note.content"]
        for run_id in (parent.run_id, child.run_id)
    }
    assert "What was done." in notes[parent.run_id] and "http://127.0.0.1:1/runs/x" in notes[parent.run_id]
    assert f"runs/{child.run_id}" in notes[parent.run_id] and "web@1" in notes[parent.run_id]
    assert "finished" in notes[parent.run_id]
    assert "What the part did." in notes[child.run_id] and f"runs/{parent.run_id}" in notes[child.run_id]


def test_a_description_leaves_room_for_its_links(store: Store) -> None:
    with tracked_run(store, "talkative", tags={"prefect.flow_run_url": "http://127.0.0.1:1/runs/x"}) as tracker:
        tracker.describe("long " * 4000)
    assert "http://127.0.0.1:1/runs/x" in client(store).get_run(tracker.run_id).data.tags["mlflow.note.content"]


def test_rules_of_the_same_kind_are_told_apart(store: Store) -> None:
    with tracked_run(store, "twice", tags={}) as tracker:
        tracker.parameters({"rules": [{"kind": "words", "min": 1}, {"kind": "words", "min": 2}, {"kind": "links"}]})
    assert client(store).get_run(tracker.run_id).data.params == {
        "rules.words-0.kind": "words",
        "rules.words-0.min": "1",
        "rules.words-1.kind": "words",
        "rules.words-1.min": "2",
        "rules.links.kind": "links",
    }
