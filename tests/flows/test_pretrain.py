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
from tasks.tokenization import tokenizer_line
from tasks.tokenizer_generations import TokenizerChoice

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


def publish(store: Store, version: int, num_documents: int, name: str = "web", **facts: Any) -> None:
    folder = store.corpora / name / str(version)
    folder.mkdir(parents=True)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "digest": f"{version:064x}",
        "documents_kept": num_documents,
        "estimated_tokens": TOKENS,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | facts))


def parameters(**changes: Any) -> PretrainParameters:
    return PretrainParameters.model_validate({"corpus": "web@1"} | changes)


def make_generation(store: Store, plan: PretrainPlan, generation: int, corpus_digest: str) -> None:
    """What planning sees of a tokenizer: its manifest."""
    folder = tokenizer_line(store, plan.main.manifest, plan.recipe).folder / str(generation)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(
        json.dumps({"schema_version": SCHEMA_VERSION, "corpus_digest": corpus_digest})
    )


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


class TestTokenizer:
    """Which generation of the tokenizer a run takes: corpus "mill", two versions, with digests 1 and 2."""

    @pytest.fixture
    def name(self, store: Store) -> str:
        """A corpus of the test's own."""
        name = f"mill-{len(store.names())}"
        for version in (1, 2):
            publish(store, version, 100, name)
        return name

    @staticmethod
    def plan(name: str, version: int, *, retrain: bool = False, **changes: Any) -> PretrainPlan:
        asked = {"corpus": f"{name}@{version}", "training": {"retrain_tokenizer": retrain}}
        return check_pretrain(parameters(**asked, **changes))

    def test_a_run_keeps_its_place_when_its_tokenizer_is_made(self, store: Store, name: str) -> None:
        plan = self.plan(name, 1)
        assert plan.tokenizer == TokenizerChoice(1)
        asked = parameters(corpus=f"{name}@1", dry_run=True)
        told = dry_run_pretrain(plan, asked)
        assert (told["tokenizer_generation"], told["would_train_tokenizer"]) == (1, True)
        make_generation(store, plan, 1, plan.main.manifest["digest"])
        again = self.plan(name, 1)
        assert again.run_dir == plan.run_dir and again.tokenizer == TokenizerChoice(1, True)
        assert dry_run_pretrain(again, asked)["would_train_tokenizer"] is False
        assert self.plan(name, 1, retrain=True).run_dir == plan.run_dir, "it was trained on this version already"

    def test_retraining_gives_another_run(self, store: Store, name: str) -> None:
        plan = self.plan(name, 2)
        make_generation(store, plan, 1, f"{1:064x}")
        retrained = self.plan(name, 2, retrain=True)
        assert retrained.tokenizer == TokenizerChoice(2, required_digest=plan.main.manifest["digest"])
        assert retrained.run_dir != plan.run_dir and self.plan(name, 2).run_dir == plan.run_dir
        make_generation(store, plan, 2, plan.main.manifest["digest"])
        assert self.plan(name, 2, retrain=True).run_dir == self.plan(name, 2).run_dir == retrained.run_dir

    def test_a_run_that_was_begun_keeps_its_tokenizer(self, store: Store, name: str) -> None:
        plan = self.plan(name, 1)
        run_id = begun(store, plan)
        make_generation(store, plan, 1, f"{1:064x}")
        make_generation(store, plan, 2, f"{2:064x}")
        for kept in (self.plan(name, 1), self.plan(name, 1, resume_from=run_id)):
            assert (kept.run_dir, kept.tokenizer) == (plan.run_dir, TokenizerChoice(1, True))
        assert self.plan(name, 2).tokenizer.generation == 2, "a new one has the latest"
        begun(store, plan, outcome={"model": "mill-smoke@1"})
        latest = self.plan(name, 1)
        assert latest.tokenizer.generation == 2 and latest.run_dir != plan.run_dir

    def test_an_older_unfinished_run_gives_way_to_one_with_the_latest(self, store: Store, name: str) -> None:
        plan = self.plan(name, 1)
        begun(store, plan)
        make_generation(store, plan, 1, f"{1:064x}")
        make_generation(store, plan, 2, f"{2:064x}")
        (plan.run_dir / RUN_RECORD).rename(plan.run_dir / "aside")
        latest = self.plan(name, 1)
        (plan.run_dir / "aside").rename(plan.run_dir / RUN_RECORD)
        begun(store, latest, outcome={"model": "mill-smoke@1"})
        assert self.plan(name, 1).run_dir == latest.run_dir != plan.run_dir

    def test_a_resumed_run_with_another_tokenizer_is_refused(self, store: Store, name: str) -> None:
        run_id = begun(store, self.plan(name, 1))
        with pytest.raises(ValueError, match="a resumed run keeps its tokenizer"):
            self.plan(name, 1, resume_from=run_id, retrain=True)
