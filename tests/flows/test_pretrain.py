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
    publish(store, 1, 100, "news", digest="e" * 64, estimated_tokens=100_000)
    publish(store, 1, 100, "copy")
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


def another(number: int) -> dict[str, Any]:
    """What makes a run of its own, and may be left out when it is resumed."""
    return {"training": {"settings": [f"keep_checkpoints={number}"]}}


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
    others: list[dict[str, Any]] = [
        {"training": {"settings": ["seed=1"]}},
        {"training": {"model": "mine"}},
        {"workers": 2},
    ]
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
        ({"more_corpora": [{"corpus": "wiki"}]}, "there is no corpus 'wiki'"),
        ({"more_corpora": [{"corpus": "news@1"}, {"corpus": "news"}]}, r"'news' is named twice \(news@1 and news@1\)"),
        ({"more_corpora": [{"corpus": "web@2"}]}, "web@2 holds 1 documents; it takes one to train on"),
        ({"more_corpora": [{"corpus": "copy"}]}, "corpora web@1 and copy@1 hold the same documents: name one of them"),
        ({"workers": 2, "min_workers": 3}, "at least 3 workers and at most 2 can't both be"),
        ({"training": {"settings": ["global_batch_tokens=16777216"]}}, r"web@1 has about .* fits with global_batch_to"),
        ({"training": {"checkpoints": "http://host/place"}}, "checkpoints can't be kept at 'http://host/place'"),
        ({"training": {"settings": ["schedule=wsd", "decay_from=runs/x"]}}, "'runs/x' is no absolute path"),
        ({"training": {"settings": ["schedule=wsd", "decay_from=/no/such/checkpoint"]}}, "/no/such/checkpoint"),
    ],
)
def test_refused_before_any_work(store: Store, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        check_pretrain(parameters(**changes))
    assert "\n" not in str(refusal.value)


NEWS: dict[str, Any] = {"corpus": "news", "weight": 0.25, "max_epochs": 2}


def test_a_mixture_is_a_run_of_its_own_and_says_what_it_is_of(store: Store) -> None:
    alone, mixed = check_pretrain(parameters()), check_pretrain(parameters(more_corpora=[NEWS]))
    assert (mixed.reference, mixed.name) == ("web@1 + news@1", "pretrain web@1 + news@1 smoke")
    assert mixed.model == alone.model and "more_corpora" not in alone.identity
    assert mixed.identity["more_corpora"] == [
        {"corpus": "news@1", "corpus_digest": "e" * 64, "weight": 0.25, "max_epochs": 2.0, "max_tokens": 0}
    ]
    others: list[dict[str, Any]] = [{"weight": 0.5}, {"max_epochs": 3}, {"max_tokens": 9_000}]
    folders = {check_pretrain(parameters(more_corpora=[NEWS | other])).run_dir for other in others}
    assert len(folders | {alone.run_dir, mixed.run_dir}) == 5
    pinned = mixed.pinned(parameters(corpus="web@1", more_corpora=[NEWS]))
    assert [share.corpus for share in pinned.more_corpora] == ["news@1"]
    assert check_pretrain(pinned).run_dir == mixed.run_dir


def test_the_plan_of_a_mixture_says_what_is_drawn_of_each(store: Store) -> None:
    estimate = check_pretrain(parameters(more_corpora=[NEWS | {"max_epochs": 1}])).estimate()
    docs, news = estimate["mixture"]
    docs_tokens, news_tokens = (int(tokens * 4 / 2.92) for tokens in (TOKENS, 100_000))  # `smoke` has 2048 entries
    assert estimate["num_steps"] == 960 and estimate["estimated_corpus_tokens"] == docs_tokens + news_tokens
    assert docs["tokens"] + news["tokens"] == estimate["tokens"] and news["corpus"] == "news@1"
    windows = (int(news_tokens * 0.95) - 1) // 256
    assert news["tokens"] == windows * 256 and news["epochs"] == 1.0  # a quarter's share is above its cap
    assert check_pretrain(parameters()).estimate()["mixture"] == []


def test_a_mixture_is_resumed_with_the_same_corpora_alone(store: Store) -> None:
    run_id = begun(store, check_pretrain(parameters(**another(6), more_corpora=[NEWS])))
    assert check_pretrain(parameters(resume_from=run_id, more_corpora=[NEWS])).corpora[1].reference == "news@1"
    for changed in ([], [NEWS | {"weight": 1}]):
        with pytest.raises(ValueError, match=r"begun with other parameters: more_corpora \(.*news@1.* before"):
            check_pretrain(parameters(resume_from=run_id, more_corpora=changed))


def test_the_fewest_workers_are_part_of_the_run_only_where_they_are_given(store: Store) -> None:
    fixed, elastic = (check_pretrain(parameters(workers=2, min_workers=least)) for least in (0, 1))
    assert (fixed.num_workers, elastic.num_workers) == (2, (1, 2)) and fixed.run_dir != elastic.run_dir
    assert elastic.estimate()["workers"] == 2
    with pytest.raises(ValueError, match="4 sequences does not divide into 3 equal shares"):
        check_pretrain(parameters(workers=4, min_workers=3))  # a batch of the recipe has 4 sequences


def test_checkpoints_elsewhere_have_a_folder_of_the_run_which_it_keeps(store: Store) -> None:
    def plan(place: str, **changes: Any) -> PretrainPlan:
        return check_pretrain(parameters(training={"checkpoints": place, "settings": ["seed=7"]}, **changes))

    here, there = plan(""), plan("s3://bucket/prefix/")
    assert there.run_dir == here.run_dir and here.checkpoints_location == f"{here.run_dir}/checkpoints"
    assert there.checkpoints_location == f"s3://bucket/prefix/{here.run_dir.name}"
    assert here.estimate()["disk"]["checkpoints"] > there.estimate()["disk"]["checkpoints"] == 0
    run_id = begun(store, there)
    for resume in ("", run_id):
        assert plan("", resume_from=resume).checkpoints == there.checkpoints
        assert plan("s3://bucket/prefix", resume_from=resume).checkpoints == there.checkpoints
        with pytest.raises(ValueError, match="begun with its checkpoints in s3://bucket/prefix, not in /elsewhere"):
            plan("/elsewhere", resume_from=resume)
    assert there.seen_again().checkpoints == there.checkpoints
    begun(store, here)  # another process was first, with its checkpoints in the default place
    assert here.seen_again().checkpoints == ""
    with pytest.raises(ValueError, match="in its own folder, the default, not in s3://bucket/prefix: leave them"):
        there.seen_again()
    with pytest.raises(ValueError, match="in its own folder, the default, not in /elsewhere: leave them there"):
        plan("/elsewhere")


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
    plan = check_pretrain(parameters(**another(3)))
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
    plan = check_pretrain(parameters(**another(5)))
    run_id = begun(store, plan)
    with store.lock(plan.lock), pytest.raises(ValueError, match=r"is being trained now: wait for it, or cancel it"):
        check_pretrain(parameters(resume_from=run_id))
    begun(store, plan, outcome={"model": "web-smoke@9"})
    with pytest.raises(ValueError, match=r"is finished: it made web-smoke@9; leave resume_from empty"):
        check_pretrain(parameters(resume_from=run_id))


def test_what_cannot_fit_is_refused_before_it_starts_where_this_machine_trains(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_large = parameters(training={"profile": "full", "settings": ["model=8b", "microbatch_sequences=64"]})
    with pytest.raises(ValueError, match=r"a process needs [\d.,]+ GB and has [\d.]+ GB .*: it fits with"):
        check_pretrain(too_large)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # others have the devices; whether it answers is another question
    monkeypatch.setattr("flows.pretrain_plan.check_cluster", lambda: None)
    assert not check_pretrain(too_large).can_be_judged


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
