"""What goes and what stays, on small stores made by hand and by Hypothesis."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.atomic import write_json
from tasks.garbage import Plan, Policy, Reference, freed_bytes, plan_garbage, size_bytes
from tasks.manifest import SCHEMA_VERSION, read_manifest
from tasks.recipes.pretraining import resolve_pretrain_recipe
from tasks.store import RUN_RECORD, Store
from tasks.trained_corpora import TrainedCorpus, trained_corpora

NOW = 2_000_000_000.0
DAY_S = 86_400.0
RECIPE = resolve_pretrain_recipe("smoke", {}).model_dump(mode="json")
STAGES = ("inventory", "read")


def fingerprint(text: str) -> str:
    return text.encode().hex().ljust(64, "0")


def aged(path: Path, days: float) -> Path:
    for item in (path, *path.rglob("*")):
        os.utime(item, (NOW - days * DAY_S, NOW - days * DAY_S))
    return path


def version(
    store: Store, name: str, number: int, *, shards: list[str], days: float = 30, source: str = "", onto: int = 0
) -> Path:
    """A corpus version, with the stage outputs that it was made of; `shards` are shared between versions.

    `onto` is the version that it was built onto: its records were screened in the runs of that one, too.
    """
    folder = store.corpora / name / str(number)
    fingerprints = {stage: fingerprint(f"{name}{number}{stage}") for stage in STAGES}
    for stage, of_stage in fingerprints.items():
        for shard in shards:
            path = store.work / stage / "shards" / fingerprint(shard)[:20]
            path.mkdir(parents=True, exist_ok=True)
            (path / "report.json").write_text("{}")
            aged(path, days)
        output = store.work / stage / of_stage[:20]
        output.mkdir(parents=True)
        names = [f"shards/{fingerprint(shard)[:20]}" for shard in shards]
        body = {"schema_version": SCHEMA_VERSION, "fingerprint": of_stage, "shards": names, "identity": {}, "after": ""}
        write_json(output / "manifest.json", body)
        aged(output, days)
    base = read_manifest(store.corpora / name / str(onto)) if onto else None
    runs = [*(base["screening_runs"] if base else ()), {stage: of[:20] for stage, of in fingerprints.items()}]
    folder.mkdir(parents=True)
    (folder / "part").write_text(f"{name}@{number}")
    body = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": number,
        "digest": f"digest of {name}@{number}",
        "fingerprints": fingerprints,
        "screening_runs": runs,
        "inputs": [{"path": source}] if source else [],
    }
    write_json(folder / "manifest.json", body)
    return aged(folder, days)


def run(
    store: Store,
    name: str,
    *,
    steps: list[int],
    digest: str,
    finished: bool,
    days: float = 30,
    good: int = 0,
    record: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """A training run with checkpoints that say what they are of; the one of the step `good` has been evaluated."""
    held_out = {
        "bits_per_byte": 1.5,
        "loss_nats_per_token": 2.25,
        "num_tokens": 100,
        "num_bytes": 300,
        "num_documents": 4,
    }
    folder = store.runs / name
    for step in steps:
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(b"weights")
        state = {
            "step": step,
            "num_steps": 100,
            "tokens_seen": step,
            "loss": 1.0,
            "held_out": held_out if step == good else None,
            "decoder": {},
            "recipe": RECIPE,
            "tokenizer_sha256": "",
            "corpus_digest": digest,
            "tokens_digest": "",
        }
        write_json(checkpoint / "state.json", {"state": state, "file_bytes": {"model.safetensors": 7}})
    folder.mkdir(parents=True, exist_ok=True)
    begun = {"run_id": "1", **record}
    write_json(folder / RUN_RECORD, begun | ({"outcome": {"model": "m@1"}} if finished else {}))
    return aged(folder, days)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def of_web(number: int) -> tuple[TrainedCorpus, ...]:
    return (TrainedCorpus(corpus=f"web@{number}"),)


def planned(store: Store, *references: Reference, **policy: Any) -> Plan:
    return plan_garbage(store, references, replace(Policy(), **policy), NOW)


def paths(plan: Plan, store: Store) -> tuple[set[str], dict[str, str]]:
    """What goes, and what stays with its reason; relative to the store."""
    gone = {str(decision.path.relative_to(store.root)) for decision in plan.removed}
    return gone, {str(decision.path.relative_to(store.root)): decision.why for decision in plan.kept}


def test_old_versions_go_with_what_only_they_were_made_of(store: Store) -> None:
    version(store, "web", 1, shards=["a"])
    version(store, "web", 2, shards=["a", "b"])
    version(store, "web", 3, shards=["b", "c"])
    gone, kept = paths(planned(store, keep_versions=1), store)
    old = {f"work/{stage}/{fingerprint(f'web{n}{stage}')[:20]}" for stage in STAGES for n in (1, 2)}
    shard_a = {f"work/{stage}/shards/{fingerprint('a')[:20]}" for stage in STAGES}
    assert gone == {"corpora/web/1", "corpora/web/2"} | old | shard_a
    assert kept["corpora/web/3"] == "among the newest 1"
    assert f"work/read/shards/{fingerprint('b')[:20]}" in kept  # version 3 needs it as well


def test_with_a_version_all_runs_stay_that_screened_its_records(store: Store) -> None:
    version(store, "web", 1, shards=["a"])
    version(store, "web", 2, shards=["b"], onto=1)
    version(store, "web", 3, shards=["c"], onto=2)
    version(store, "other", 1, shards=["d"])
    version(store, "other", 2, shards=["e"])
    gone, kept = paths(planned(store, keep_versions=1), store)
    assert {path for path in gone if path.startswith("corpora")} == {
        "corpora/web/1",
        "corpora/web/2",
        "corpora/other/1",
    }
    work = {path for path in gone if path.startswith("work")}
    assert work == {
        f"work/{stage}/{folder}"
        for stage in STAGES
        for folder in (f"shards/{fingerprint('d')[:20]}", fingerprint(f"other1{stage}")[:20])
    }
    first = f"work/read/{fingerprint('web1read')[:20]}"
    assert kept[first] == "records of web@3 were screened by it"
    assert paths(planned(store, keep_versions=1), store)[0] == gone


def test_a_version_that_a_model_names_by_name_or_digest_stays_and_so_does_a_pinned_one(store: Store) -> None:
    for number in range(1, 6):
        version(store, "web", number, shards=[str(number)])
    (store.corpora / "web" / "3.pin").touch()
    models = (
        Reference("model m@1", (TrainedCorpus(corpus="web@1"),)),
        Reference("model m@2", (TrainedCorpus(digest="digest of web@2"),)),
    )
    gone, kept = paths(planned(store, *models, keep_versions=1), store)
    assert {path for path in gone if path.startswith("corpora")} == {"corpora/web/4"}
    assert kept["corpora/web/1"] == "model m@1 was trained on it"
    assert kept["corpora/web/2"] == "model m@2 was trained on it"
    assert kept["corpora/web/3"] == "pinned by 3.pin"


def test_what_is_young_stays(store: Store) -> None:
    version(store, "web", 1, shards=["a"], days=6.5)
    version(store, "web", 2, shards=["b"], days=1)
    gone, kept = paths(planned(store, keep_versions=1), store)
    assert not gone
    assert kept["corpora/web/1"] == "6.5 days old, less than 7"
    assert "corpora/web/1" in paths(planned(store, keep_versions=1, min_age_s=DAY_S), store)[0]


def test_what_cannot_be_read_stays_and_with_it_all_that_it_may_be_made_of(store: Store) -> None:
    (version(store, "web", 1, shards=["a"]) / "manifest.json").write_text("{")
    version(store, "web", 2, shards=["b"])
    aged(store.corpora / "web" / "1", 30)
    gone, kept = paths(planned(store, keep_versions=1), store)
    assert not gone
    assert "cannot be read" in kept["corpora/web/1"] and "cannot be read" in kept["work/read"]


def test_unfinished_versions_and_stages_go_when_they_are_old(store: Store) -> None:
    for folder in (store.corpora / "web" / "7", store.work / "read" / ("0" * 20), store.tokens / "half"):
        folder.mkdir(parents=True)
        (folder / "part").touch()
        aged(folder, 30)
    assert paths(planned(store), store)[0] == {"corpora/web/7", f"work/read/{'0' * 20}", "tokens/half"}


def test_of_an_unfinished_run_the_newest_good_checkpoint_stays_and_its_corpus(store: Store) -> None:
    version(store, "web", 1, shards=["a"])
    version(store, "web", 2, shards=["b"])
    folder = run(store, "going", steps=[10, 20, 30], digest="digest of web@1", finished=False)
    (folder / "checkpoints" / "step-00000030" / "model.safetensors").write_bytes(b"cut")  # killed while it was written
    aged(folder, 30)
    gone, kept = paths(planned(store, keep_versions=1), store)
    checkpoints = {path for path in gone if path.startswith("runs")}
    assert checkpoints == {"runs/going/checkpoints/step-00000010", "runs/going/checkpoints/step-00000030"}
    assert "goes on from it" in kept["runs/going/checkpoints/step-00000020"]
    assert kept["corpora/web/1"] == "the unfinished training going goes on with it"


def test_of_an_unfinished_run_the_last_good_checkpoint_stays_too(store: Store) -> None:
    folder = run(store, "going", steps=[10, 20, 30, 40], digest="d", finished=False, good=20)
    aged(folder, 30)
    gone, kept = paths(planned(store), store)
    assert gone == {"runs/going/checkpoints/step-00000010", "runs/going/checkpoints/step-00000030"}
    assert "go back to it" in kept["runs/going/checkpoints/step-00000020"]
    assert "goes on from it" in kept["runs/going/checkpoints/step-00000040"]


@pytest.mark.parametrize("has_model", [True, False])
def test_the_checkpoint_that_an_unfinished_training_decays_from_stays(store: Store, has_model: bool) -> None:
    source = run(store, "stable", steps=[10, 20, 30], digest="d", finished=True, good=10)
    origin = source / "checkpoints/step-00000010"
    run(store, "decay", steps=[15], digest="d", finished=False, record={"recipe": {"decay_from": str(origin)}})
    model = Reference(name="m@1", run_dir=source, checkpoint=str(source / "checkpoints/step-00000030"))
    gone, _ = paths(planned(store, *([model] if has_model else [])), store)
    left_over = {10, 20, 30} - {10, *([30] if has_model else [])}
    assert gone == {f"runs/stable/checkpoints/step-{step:08d}" for step in left_over}


def test_of_a_finished_run_the_checkpoints_that_models_name_stay_wherever_the_store_is_now(store: Store) -> None:
    run(store, "done", steps=[10, 20], digest="d", finished=True)
    elsewhere = Path("/another/place/runs/done")
    model = Reference("model m@1", run_dir=elsewhere, checkpoint=str(elsewhere / "checkpoints" / "step-00000020"))
    gone, kept = paths(planned(store, model), store)
    assert gone == {"runs/done/checkpoints/step-00000010"}
    assert kept["runs/done/checkpoints/step-00000020"] == "model m@1 names it"
    assert paths(planned(store), store)[0] == {"runs/done"}  # the model was deleted from the registry


def test_token_shards_of_kept_versions_and_of_models_stay(store: Store) -> None:
    version(store, "web", 1, shards=["a"])
    for name, digest in (("of-web", "digest of web@1"), ("of-model", "gone"), ("of-nobody", "gone")):
        (store.tokens / name).mkdir(parents=True)
        write_json(store.tokens / name / "manifest.json", {"corpus_digest": digest})
        aged(store.tokens / name, 30)
    model = Reference("model m@1", (TrainedCorpus(tokens="/another/place/tokens/of-model"),))
    gone, kept = paths(planned(store, model), store)
    assert gone == {"tokens/of-nobody"}
    assert kept["tokens/of-web"] == "made of web@1" and kept["tokens/of-model"] == "model m@1 was trained on it"


def test_a_model_of_a_mixture_holds_every_corpus_and_all_token_shards_of_it(store: Store) -> None:
    for name in ("docs", "news"):
        for number in (1, 2):
            version(store, name, number, shards=["a"])
    for name in ("of-docs", "of-news", "of-nobody"):
        (store.tokens / name).mkdir(parents=True)
        write_json(store.tokens / name / "manifest.json", {"corpus_digest": "another tokenizer's"})
        aged(store.tokens / name, 30)
    tags = {
        "corpus": "docs@1",
        "corpus_digest": "digest of docs@1",
        "tokens": "tokens/of-docs",
        "more_corpora": json.dumps([{"corpus": "news@1", "corpus_digest": "digest of news@1"}]),
        "more_tokens": json.dumps(["tokens/of-news"]),
    }
    gone, kept = paths(planned(store, Reference("model m@1", trained_corpora(tags)), keep_versions=1), store)
    assert gone == {"tokens/of-nobody"}
    for path in ("corpora/docs/1", "corpora/news/1", "tokens/of-docs", "tokens/of-news"):
        assert kept[path] == "model m@1 was trained on it"
    alone = {name: value for name, value in tags.items() if not name.startswith("more_")}
    gone, _ = paths(planned(store, Reference("model m@1", trained_corpora(alone)), keep_versions=1), store)
    assert {"corpora/news/1", "tokens/of-news"} <= gone and "corpora/docs/1" not in gone


def test_an_unfinished_run_of_a_mixture_holds_every_corpus_of_it(store: Store) -> None:
    for name in ("docs", "news"):
        for number in (1, 2):
            version(store, name, number, shards=["a"])
        (store.tokens / name).mkdir(parents=True)
        write_json(store.tokens / name / "manifest.json", {"corpus_digest": f"digest of {name}@1"})
        aged(store.tokens / name, 30)
    more = [{"corpus": "news@1", "corpus_digest": "digest of news@1"}]
    record = {"corpus": "docs@1", "corpus_digest": "digest of docs@1", "more_corpora": more}
    run(store, "going", steps=[10], digest="digest of docs@1", finished=False, record=record)
    gone, kept = paths(planned(store, keep_versions=1), store)
    assert gone == set()
    assert kept["corpora/news/1"] == "the unfinished training going goes on with it"
    assert kept["tokens/news"] == "made of the unfinished training going"


def test_a_run_with_checkpoints_elsewhere_stays_until_its_model_is_gone_and_they_are_named(store: Store) -> None:
    version(store, "web", 1, shards=["a"])
    version(store, "web", 2, shards=["b"])
    place = "s3://bucket/checkpoints/going"  # nobody asks that server: there is none
    record = {"corpus": "web@1", "corpus_digest": "digest of web@1", "checkpoints": place}
    run(store, "going", steps=[], digest="", finished=False, record=record)
    done = record | {"checkpoints": "s3://bucket/checkpoints/done"}
    run(store, "done", steps=[], digest="", finished=True, record=done)
    model = Reference("model m@1", checkpoint="s3://bucket/checkpoints/done/step-00000020")
    gone, kept = paths(planned(store, model, keep_versions=1), store)
    assert gone == set() and "corpora/web/1" in kept
    assert kept["runs/going"] == f"the unfinished training may go on: its checkpoints in {place} are left alone"
    assert kept["runs/done"] == f"model m@1 was made by it: its checkpoints in {done['checkpoints']} are left alone"
    [decision] = [one for one in planned(store, keep_versions=1).removed if one.path.name == "done"]
    assert decision.why.endswith(f"no longer in the registry; its checkpoints in {done['checkpoints']} are left alone")


def test_work_on_token_shards_goes_once_they_are_published_and_tokenizers_stay(store: Store) -> None:
    version(store, "web", 1, shards=["a"])
    folder = store.work / "tokens" / ("0" * 20)
    folder.mkdir(parents=True)
    body = {"schema_version": SCHEMA_VERSION, "fingerprint": "0" * 64, "shards": ["shards/" + "1" * 20], "identity": {}}
    write_json(folder / "manifest.json", body)
    (store.work / "tokens" / "shards" / ("1" * 20)).mkdir(parents=True)
    (store.root / "tokenizers" / "web" / "c" / "1").mkdir(parents=True)
    for path in (store.work / "tokens", store.root / "tokenizers"):
        aged(path, 30)
    gone, kept = paths(planned(store), store)
    assert gone == {f"work/tokens/{'0' * 20}", f"work/tokens/shards/{'1' * 20}"}
    assert not any(path.startswith("tokenizers") for path in kept)  # never even looked at


def test_a_collected_source_stays_with_the_version_that_was_read_from_it(store: Store) -> None:
    for name in ("docs-1", "docs-2"):
        (store.root / "sources" / name).mkdir(parents=True)
        aged(store.root / "sources" / name, 30)
    version(store, "web", 1, shards=["a"], source=str(store.root / "sources" / "docs-2" / "pages.jsonl"))
    assert paths(planned(store), store)[0] == {"sources/docs-1"}


def model(store: Store, digit: str) -> str:
    """A model in the store, 30 days old; its hash."""
    (store.models / (digit * 64)).mkdir(parents=True)
    (store.models / (digit * 64) / "model").write_bytes(b"model")
    aged(store.models / (digit * 64), 30)
    return digit * 64


def test_models_stay_that_a_kept_recipe_names_or_the_registry_has(store: Store) -> None:
    named, old, registered, unused = (model(store, digit) for digit in "abcd")
    for number, sha256 in ((1, old), (2, named)):
        folder = version(store, "web", number, shards=["a"])
        manifest = json.loads((folder / "manifest.json").read_bytes())
        manifest["recipe"] = {"rules": [{"kind": "taste", "model": f"https://h/taste.bin#sha256={sha256}"}]}
        write_json(folder / "manifest.json", manifest)
        aged(folder, 30)
    (store.models / f".tmp-{unused}-0a1b").mkdir()  # for reconcile
    plan = plan_garbage(store, (), Policy(keep_versions=1), NOW, {registered: "taste@3"})
    gone, kept = paths(plan, store)
    assert {path for path in gone if path.startswith("models")} == {f"models/{old}", f"models/{unused}"}
    assert kept[f"models/{named}"] == "the recipe of web@2 names it"
    assert kept[f"models/{registered}"] == "it is taste@3 of the registry"
    assert {decision.only_idle for decision in plan.decisions if "models" in decision.path.parts} == {True}
    (store.corpora / "web" / "2" / "manifest.json").write_text("{")
    assert not {path for path in paths(planned(store), store)[0] if path.startswith("models")}


def test_a_file_with_another_name_elsewhere_frees_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "shared").write_bytes(b"x" * 100)
    (tmp_path / "b" / "shared").hardlink_to(tmp_path / "a" / "shared")
    (tmp_path / "a" / "own").write_bytes(b"x" * 7)
    assert size_bytes(tmp_path / "a") == 107
    assert freed_bytes([tmp_path / "a"]) == 7
    assert freed_bytes([tmp_path / "a", tmp_path / "b"]) == 107


@pytest.mark.parametrize("wrong", [{"keep_versions": 0}, {"min_age_s": -1.0}])
def test_the_latest_version_can_never_be_asked_for(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give"):
        Policy(**wrong)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    versions=st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), min_size=1, max_size=5),
    models=st.lists(st.integers(1, 5), max_size=3),
    runs=st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.integers(1, 3)), max_size=3),
    days=st.lists(st.sampled_from([1.0, 30.0]), min_size=5, max_size=5),
    keep=st.integers(1, 3),
)
def test_after_it_every_kept_version_and_every_model_still_resolves(
    tmp_path_factory: pytest.TempPathFactory,
    versions: list[list[str]],
    models: list[int],
    runs: list[tuple[int, bool, int]],
    days: list[float],
    keep: int,
) -> None:
    store = Store.open(tmp_path_factory.mktemp("store"))
    for number, shards in enumerate(versions, 1):
        version(store, "web", number, shards=shards, days=days[number - 1])
    references = [Reference(f"model m@{n}", of_web(n)) for n in models if n <= len(versions)]
    unfinished = []
    for index, (number, finished, steps) in enumerate(runs):
        digest = f"digest of web@{number}"
        folder = run(store, f"run{index}", steps=list(range(1, steps + 1)), digest=digest, finished=finished)
        if finished and index % 2:
            checkpoint = folder / "checkpoints" / "step-00000001"
            references.append(Reference(f"model r@{index}", of_web(number), run_dir=folder, checkpoint=str(checkpoint)))
        elif not finished:
            unfinished.append((folder, steps, number))
    plan = planned(store, *references, keep_versions=keep)
    assert len({decision.path for decision in plan.decisions}) == len(plan.decisions)
    for decision in plan.removed:
        shutil.rmtree(decision.path)

    left = store.versions("web")
    assert left[-min(keep, len(versions)) :] == list(range(1, len(versions) + 1))[-keep:]
    for number in left:  # reads, and the next refresh finds all that it was made of
        manifest = read_manifest(store.corpus(f"web@{number}"))
        assert manifest is not None
        for stage, of_stage in manifest["fingerprints"].items():
            output = read_manifest(store.work / stage / of_stage[:20])
            assert output is not None and all((store.work / stage / shard).is_dir() for shard in output["shards"])
    for reference in references:
        number = int(reference.corpora[0].corpus.partition("@")[2])
        assert number > len(versions) or number in left
        assert not reference.checkpoint or Path(reference.checkpoint, "state.json").is_file()
    for folder, steps, number in unfinished:
        assert (folder / "checkpoints" / f"step-{steps:08d}" / "state.json").is_file()
        assert number > len(versions) or number in left
    again, _ = paths(planned(store, *references, keep_versions=keep), store)
    assert not again
