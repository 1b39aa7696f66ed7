from pathlib import Path

import pytest

from infra.mlflow_tracker import EXPERIMENT, client, tracked_run
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
        tracker.dataset("web@1", "ab" * 32, tmp_path, context="training")
        tracker.artifact(tmp_path / "note.txt", "notes")
    run = client(store).get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "a run"
    assert run.data.params == {
        "recipe.quality.gopher.min_words": "50",
        "recipe.quality.gopher.kind": "gopher",
        "recipe.name": "x",
    }
    assert run.data.metrics["loss"] == pytest.approx(1 / 1500)
    dataset = run.inputs.dataset_inputs[0]
    assert (dataset.dataset.name, dataset.dataset.digest) == ("web@1", ("ab" * 32)[:36])
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "training"}
    assert run.data.tags["tokenmill.corpus_digest"] == "ab" * 32
    artifacts = store.root / "mlflow" / "artifacts" / tracker.run_id / "artifacts"
    assert (artifacts / "notes" / "note.txt").read_text() == "hello"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no such corpus"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
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
