"""What a pretraining would be, and what is refused before anything is done: a real store, a real MLflow database."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flows.parameters import PretrainParameters
from flows.pretrain_plan import PretrainPlan, check_pretrain, dry_run_pretrain, too_few_new_tokens
from infra.earlier_run import RUN_DIR_TAG
from infra.mlflow_tracker import MlflowTracker, tracked_run
from tasks.manifest import SCHEMA_VERSION
from tasks.store import RUN_RECORD, Store

TOKENS = 2_000_000


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose MLflow database exists: making it takes seconds."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    (store.root / "mlflow").mkdir()
    publish(store, 1, 100)
    publish(store, 2, 1)
    return store


@pytest.fixture
def store(tracked: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("TOKENMILL_STORE", str(tracked.root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tracked


def publish(store: Store, version: int, num_documents: int, **facts: Any) -> None:
    folder = store.corpora / "web" / str(version)
    folder.mkdir(parents=True)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": "web",
        "version": version,
        "digest": f"{version:064x}",
        "documents_kept": num_documents,
        "estimated_tokens": TOKENS,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | facts))


def parameters(**changes: Any) -> PretrainParameters:
    return PretrainParameters.model_validate({"corpus": "web@1"} | changes)


def begun(store: Store, plan: PretrainPlan, **changes: Any) -> str:
    """A run that was cancelled after it began; its MLflow id."""
    plan.run_dir.mkdir(parents=True, exist_ok=True)
    with tracked_run(store, plan.name, tags={RUN_DIR_TAG: str(plan.run_dir)}) as tracker:
        known = {**plan.identity, "mlflow_run_id": tracker.run_id, **changes}
        (plan.run_dir / RUN_RECORD).write_text(json.dumps(known))
        return tracker.run_id


def test_the_same_settings_find_the_same_run_and_others_another(store: Store) -> None:
    plan = check_pretrain(parameters())
    assert (plan.reference, plan.model, plan.name) == ("web@1", "web-smoke", "pretrain web@1 smoke")
    assert check_pretrain(parameters()).run_dir == plan.run_dir
    others = [{"training": {"settings": ["seed=1"]}}, {"training": {"model": "mine"}}, {"workers": 2}]
    folders = {check_pretrain(parameters(**other)).run_dir for other in others}
    assert len(folders | {plan.run_dir}) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "web@2"}, "web@2 holds 1 documents; it takes one to train on and one to hold out"),
        ({"corpus": "wiki"}, "there is no corpus 'wiki'"),
        ({"training": {"settings": ["learningrate=1"]}}, "did you mean learning_rate"),
        ({"consent": {"approval": True}}, "no server shows it: use `tokenmill up`"),
        ({"resume_from": "0" * 32}, "MLflow has no run 00000000000000000000000000000000"),
    ],
)
def test_refused_before_any_work(store: Store, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        check_pretrain(parameters(**changes))
    assert "\n" not in str(refusal.value)


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(store: Store) -> None:
    too_few_new_tokens(check_pretrain(parameters()), 1)  # MLflow makes its database when it is first asked
    before = sorted(store.root.rglob("*"))
    asked = parameters(consent={"approval": True}, dry_run=True)
    result = dry_run_pretrain(check_pretrain(asked), asked)
    assert sorted(store.root.rglob("*")) == before
    assert (result["would_train"], result["model_name"], result["resumes_from_step"]) == (True, "web-smoke", 0)
    assert result["num_steps"] == 960 and result["asks_for_approval"] is True
    json.dumps(result)


def test_too_few_new_tokens_count_from_the_latest_version(store: Store) -> None:
    plan = check_pretrain(parameters())
    assert too_few_new_tokens(plan, 0) == ""
    assert too_few_new_tokens(plan, TOKENS) == ""
    assert too_few_new_tokens(plan, TOKENS + 1) == (
        "web@1 has 2,000,000 new tokens (estimated) since the beginning; training starts at 2,000,001"
    )


def test_resumed_by_its_id_although_the_fingerprint_is_another(store: Store) -> None:
    plan = check_pretrain(parameters(workers=3))
    run_id = begun(store, plan)
    resumed = check_pretrain(parameters(workers=1, resume_from=run_id))
    assert resumed.run_dir == plan.run_dir and resumed.workers == 1
    assert resumed.earlier["mlflow_run_id"] == run_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"settings": ["seed=7"]}}, r"begun with other parameters: seed \(0 before, 7 now\)"),
        ({"training": {"model": "mine"}}, r"model \(web-smoke before, mine now\)"),
    ],
)
def test_a_run_of_other_parameters_is_refused_by_what_differs(
    store: Store, changes: dict[str, Any], message: str
) -> None:
    run_id = begun(store, check_pretrain(parameters(workers=4)))
    with pytest.raises(ValueError, match=message):
        check_pretrain(parameters(resume_from=run_id, **changes))


def test_a_finished_and_a_running_one_are_refused(store: Store) -> None:
    plan = check_pretrain(parameters(workers=5))
    run_id = begun(store, plan)
    with store.lock(plan.lock), pytest.raises(ValueError, match=r"is being trained now: wait for it, or cancel it"):
        check_pretrain(parameters(resume_from=run_id))
    begun(store, plan, outcome={"model": "web-smoke@9"})
    with pytest.raises(ValueError, match=r"is finished: it made web-smoke@9; leave resume_from empty"):
        check_pretrain(parameters(resume_from=run_id))


def test_a_run_that_trained_nothing_is_refused(store: Store) -> None:
    with tracked_run(store, "refresh web", tags={}) as tracker:
        assert isinstance(tracker, MlflowTracker)
    with pytest.raises(ValueError, match=r"\(refresh web\) trained nothing: give the id of a pretrain run"):
        check_pretrain(parameters(resume_from=tracker.run_id))
