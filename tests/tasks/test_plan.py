"""What a run would take is said before it starts, what can not fit is refused with what would."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tasks.plan
from model.config import num_parameters
from tasks.device_facts import DeviceFacts
from tasks.pack import SPLITS, TokenShards
from tasks.plan import TrainingPlan, training_plan
from tasks.plan_table import plan_markdown, plan_rows
from tasks.planned_mixture import CorpusFacts, CountedTokens
from tasks.recipes.pretraining import PretrainRecipe, resolve_pretrain_recipe
from tests.data.prose import prose
from tests.tasks.checkpoints.tiny_training import state_at
from tests.tasks.packed_texts import pack_texts

CORPUS = CorpusFacts(reference="web@3", estimated_tokens=1_460_000, documents=4_000)
"""2 million tokens of 2.92 bytes, under the vocabulary of `smoke`."""
CPU = DeviceFacts("cpu", "2 CPU cores", 1, 2, 8_000_000_000)
H200 = DeviceFacts("cuda", "NVIDIA H200", 8, 64, 150_000_000_000)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two cores and 8 GB, whatever this machine has."""
    has(monkeypatch, CPU)
    return monkeypatch


def has(monkeypatch: pytest.MonkeyPatch, facts: DeviceFacts) -> None:
    monkeypatch.setattr(tasks.plan, "device_facts", lambda device: facts)


def recipe(name: str = "smoke", **settings: str) -> PretrainRecipe:
    return resolve_pretrain_recipe(name, settings)


def planned(tmp_path: Path, chosen: PretrainRecipe | None = None, **options: Any) -> TrainingPlan:
    return training_plan(chosen or recipe(), CORPUS, folder=tmp_path, **({"probe": False} | options))


def test_sizes_follow_from_recipe_and_corpus(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert (plan.corpus, plan.recipe_name, plan.model, plan.workers) == ("web@3", "smoke", "smoke", 1)
    assert plan.parameters == num_parameters(recipe().decoder_config())
    assert plan.num_steps * plan.batch_tokens == plan.tokens == 983_040
    assert plan.epochs == pytest.approx(983_040 / 1_900_000, abs=0.01)
    assert (plan.num_evaluations, plan.num_checkpoints) == (8, 4)
    assert plan.checkpoint_bytes == 12 * plan.parameters
    # of the checkpoints two are kept, all are evaluated, and one is being written
    assert plan.disk == {
        "checkpoints": 3 * plan.checkpoint_bytes,
        "model": 4 * plan.parameters,
        "token shards": 4_000_000,
    }
    assert plan.disk_bytes == sum(plan.disk.values()) and plan.peak_bytes == sum(plan.memory.values())
    assert plan.cost is None and plan.based_on == (
        "a rule of thumb, not this machine, from two CPU cores; `tokenmill plan` measures it by probe steps"
    )
    json.dumps(plan.as_json())


def test_a_last_step_between_the_intervals_is_evaluated_and_kept_too(
    machine: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changed = recipe(checkpoint_every_steps="250", evaluate_every_steps="320")
    plan = planned(tmp_path, changed)
    assert (plan.num_steps, plan.num_evaluations, plan.num_checkpoints) == (960, 3, 4)
    # here the last good one may be an older one: two kept, that one, and one that is being written
    assert plan.disk["checkpoints"] == 4 * plan.checkpoint_bytes


def test_shards_that_are_there_take_no_more_disk(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counted = CountedTokens(train=1_800_000, held_out=50_000)
    made = dataclasses.replace(CORPUS, token_shards=("a-b",), counted=counted)
    plan = training_plan(recipe(), made, folder=tmp_path, probe=False)
    assert plan.disk["token shards"] == 0 and plan.estimated_corpus_tokens == 1_850_000
    elsewhere = dataclasses.replace(CORPUS, token_shards=("of another tokenizer",))
    assert training_plan(recipe(), elsewhere, folder=tmp_path, probe=False).disk["token shards"] == 4_000_000


def test_a_run_that_passes_end_is_exact_where_the_tokens_were_counted(
    machine: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passes = recipe(epochs="0.5", total_tokens="null")
    counted = dataclasses.replace(CORPUS, counted=CountedTokens(train=1_600_001, held_out=50_000))
    exact = training_plan(passes, counted, folder=tmp_path, probe=False)
    assert exact.corpus_is_counted and exact.length_is_exact and exact.num_steps == 800_000 // 1024
    assert dict(plan_rows(exact))["steps"] == "781 of 1,024 tokens"
    assert dict(plan_rows(exact))["tokens"].endswith("0.5 epochs of 1,650,001 tokens")
    about = planned(tmp_path, passes)
    assert not about.length_is_exact and about.num_steps == pytest.approx(950_000 / 1024, abs=1)
    assert dict(plan_rows(about))["steps"].startswith("about 92")
    assert "epochs of about 2,000,000 tokens" in dict(plan_rows(about))["tokens"]
    assert planned(tmp_path).length_is_exact and dict(plan_rows(planned(tmp_path)))["steps"] == "960 of 1,024 tokens"


def test_a_batch_larger_than_the_corpus_is_refused(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is suggested, followed, is planned."""
    with pytest.raises(ValueError, match="web@3 has about 1,900,000 tokens to train on") as refusal:
        planned(tmp_path, recipe(global_batch_tokens="4194304"), workers=2)
    suggested = re.search(r"global_batch_tokens=(\d+)", str(refusal.value))
    assert suggested is not None and "\n" not in str(refusal.value)
    assert planned(tmp_path, recipe(global_batch_tokens=suggested[1]), workers=2).batch_tokens == int(suggested[1])


def test_workers_that_share_the_cores_of_a_machine_are_paid_once(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, two, four = (planned(tmp_path, workers=number, price_per_device_hour=900.0) for number in (1, 2, 4))
    assert [plan.num_devices for plan in (one, two, four)] == [1, 1, 2]
    assert [plan.tokens_per_s for plan in (one, two, four)] == [20_000, 20_000, 40_000]
    assert one.cost == two.cost == four.cost
    assert [dict(plan_rows(plan))["devices"] for plan in (one, two, four)] == [
        "1 x 2 CPU cores",
        "1 x 2 CPU cores, shared by 2 workers",
        "2 x 2 CPU cores, shared by 4 workers",
    ]


def test_a_known_gpu_has_a_time_and_a_cost(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    has(machine, H200)
    big = recipe("full", precision="bf16")
    large = dataclasses.replace(CORPUS, estimated_tokens=2_000_000_000)
    one, eight = (
        training_plan(big, large, folder=tmp_path, workers=workers, price_per_device_hour=2.5, probe=False)
        for workers in (1, 8)
    )
    assert one.seconds is not None and eight.seconds is not None and one.cost is not None
    assert one.seconds == pytest.approx(8 * eight.seconds, rel=0.01)
    assert one.cost == eight.cost == pytest.approx(one.seconds / 3600 * 2.5, abs=0.01)
    has(machine, dataclasses.replace(H200, name="NVIDIA Unheard-Of"))
    unknown = planned(tmp_path, big, price_per_device_hour=2.5)
    assert unknown.seconds is unknown.cost is unknown.tokens_per_s is None and not unknown.seconds_of
    assert ("time", "not known") in plan_rows(unknown)


def test_what_does_not_fit_is_refused_with_what_would(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each suggestion, followed, fits."""
    seen = []
    for memory_gb in (6.0, 3.0, 2.0, 1.0):
        has(machine, dataclasses.replace(CPU, memory_bytes=int(memory_gb * 1e9)))
        with pytest.raises(ValueError, match="it fits with") as refusal:
            planned(tmp_path, recipe("small", microbatch_sequences="64"))
        assert "\n" not in str(refusal.value)
        settings = dict(re.findall(r"(\w+)=(\w+)", str(refusal.value).partition("it fits with")[2]))
        planned(tmp_path, recipe("small", **{"microbatch_sequences": "64", **settings}))
        seen.append(sorted(settings))
    assert seen[0] == ["microbatch_sequences"] and "model" in seen[-1]
    has(machine, dataclasses.replace(CPU, memory_bytes=100_000_000))
    with pytest.raises(ValueError, match="no smaller network"):
        planned(tmp_path)


def test_sharding_is_offered_where_there_are_processes_to_share(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    has(machine, dataclasses.replace(H200, memory_bytes=100_000_000_000))
    huge = recipe("full", model="8b", global_batch_tokens="1048576", microbatch_sequences="1")
    with pytest.raises(ValueError, match=r"it fits with sharded=true"):
        planned(tmp_path, huge, workers=8)
    with pytest.raises(ValueError, match=r"it fits with model=1b"):
        planned(tmp_path, huge, workers=1)


def test_the_limit_is_the_devices_memory_itself(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needed, each = planned(tmp_path).peak_bytes, planned(tmp_path, workers=2).peak_bytes
    has(machine, dataclasses.replace(CPU, memory_bytes=needed))
    assert planned(tmp_path).device_bytes == needed
    has(machine, dataclasses.replace(CPU, memory_bytes=needed - 1))
    with pytest.raises(ValueError, match="a process needs"):
        planned(tmp_path)
    has(machine, dataclasses.replace(CPU, memory_bytes=2 * each))
    assert planned(tmp_path, workers=2).device_bytes == each
    has(machine, dataclasses.replace(CPU, memory_bytes=2 * each - 1))
    with pytest.raises(ValueError, match="a process needs"):
        planned(tmp_path, workers=2)


def test_the_disk_must_have_room(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    endless = dataclasses.replace(CORPUS, estimated_tokens=10**18)
    with pytest.raises(ValueError, match=r"to write and .* free .* lower keep_checkpoints"):
        training_plan(recipe(), endless, folder=tmp_path / "not/there", probe=False)


def test_what_a_run_has_written_is_not_written_again(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needed = planned(tmp_path).disk_bytes
    machine.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(ValueError, match="to write"):
        planned(tmp_path)
    (tmp_path / "checkpoints/step-00000240").mkdir(parents=True)
    (tmp_path / "checkpoints/step-00000240/model.safetensors").write_bytes(b"x")
    assert planned(tmp_path).disk_bytes == needed


@pytest.mark.parametrize(
    ("settings", "workers", "message"),
    [
        ({}, 3, "4 sequences does not divide into 3"),
        ({"tensor": "2"}, 3, "3 processes do not divide into groups of 2"),
        ({"tensor": "4"}, 4, "num_kv_heads 2 does not divide into tensor 4"),
    ],
)
def test_a_layout_that_does_not_divide_is_refused(
    machine: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, str], workers: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        planned(tmp_path, recipe(**settings), workers=workers)


def test_probes_of_more_workers_than_there_are_devices_are_refused(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert planned(tmp_path, workers=4).workers == 4
    with pytest.raises(ValueError, match="--no-probe"):
        planned(tmp_path, workers=4, probe=True)


def test_a_table_for_people(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = dataclasses.replace(planned(tmp_path, price_per_device_hour=2.0), corpus="a|b<i>@1")
    rows = dict(plan_rows(plan))
    assert rows["corpus"] == "a|b<i>@1" and rows["steps"] == "960 of 1,024 tokens"
    assert rows["cost"] == f"{plan.cost:,.2f} at 2 a device and hour"
    markdown = plan_markdown(plan)
    assert "a\\|b&lt;i&gt;@1" in markdown and "<i>" not in markdown
    assert "| memory a device: weights |" in markdown and "| time: steps |" in markdown


REAL_RUN = """
import sys, time
from pathlib import Path
from tasks.memory_use import memory_use
from tasks.mixture import MixtureSource
from tasks.recipes.pretraining import PretrainRecipe
from tasks.training import TrainJob, train
import json, torch

folder = Path(sys.argv[1])
recipe = PretrainRecipe.model_validate_json((folder / "recipe.json").read_text())
source = MixtureSource(corpus="docs", tokens_dir=folder / "corpus/tokens")
job = TrainJob(
    corpora=(source,),
    tokenizer_file=folder / "corpus/tokenizer.json",
    run_dir=folder / "run",
    recipe=recipe,
    device="cpu",
)
began_s = time.perf_counter()
train(job)
seconds = time.perf_counter() - began_s
print(json.dumps([seconds, memory_use(torch.device("cpu")).peak_bytes]))
"""


@pytest.mark.verify
@pytest.mark.timeout(600)
def test_the_plan_against_the_real_run(tmp_path: Path) -> None:
    """Time within 15 %, memory within 10 %: of `smoke`, in a process as a worker's, with a plan before and one after.

    What else this machine is doing changes while the run lasts, so the two plans' mean is what is compared.
    """
    texts = {f"{number:032x}-0": prose(f"plan/{number}", 60) for number in range(400)}
    tokens = pack_texts(tmp_path / "corpus", texts, held_out=0.05)
    shards = [TokenShards(tokens, split) for split in SPLITS]
    counted = dict(zip(SPLITS, (split.num_tokens for split in shards), strict=True))
    facts = CorpusFacts(
        reference="docs@1",
        estimated_tokens=sum(counted.values()),
        documents=sum(split.num_documents for split in shards),
        counted=CountedTokens(**counted),
    )
    chosen = recipe(total_tokens="614400", evaluate_every_steps="120", checkpoint_every_steps="240")
    (tmp_path / "recipe.json").write_text(chosen.model_dump_json())
    plans = [training_plan(chosen, facts, folder=tmp_path, device="cpu")]
    command = [sys.executable, "-P", "-c", REAL_RUN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, peak_bytes = json.loads(done.stdout.splitlines()[-1])
    plans.append(training_plan(chosen, facts, folder=tmp_path, device="cpu"))
    planned_s = statistics.mean(plan.seconds or 0.0 for plan in plans)
    unprobed = training_plan(chosen, facts, folder=tmp_path, device="cpu", probe=False)
    times = ", ".join(f"{plan.seconds} s" for plan in plans)
    sizes = ", ".join(f"{plan.peak_bytes / 1e6:.0f}" for plan in (*plans, unprobed))
    print(f"\nplanned {times} (before, after), real {seconds:.1f} s")
    print(f"planned {sizes} MB (before, after, without probe), real {peak_bytes / 1e6:.0f} MB")
    assert planned_s == pytest.approx(seconds, rel=0.15)
    for plan in (*plans, unprobed):
        assert plan.peak_bytes == pytest.approx(peak_bytes, rel=0.1)
    assert plans[0].based_on.endswith("probe steps")


def test_a_mixture_counts_all_corpora_and_says_what_is_drawn_of_each(
    machine: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    news = CorpusFacts(reference="news@1", estimated_tokens=146_000, documents=100, weight=0.5, max_epochs=1)
    alone, mixed = planned(tmp_path), planned(tmp_path, more=[news])
    assert alone.mixture == () and [share.corpus for share in mixed.mixture] == ["web@3", "news@1"]
    assert mixed.estimated_corpus_tokens == 2_200_000 and mixed.tokens == alone.tokens == 983_040
    assert mixed.disk["token shards"] == pytest.approx(1.1 * alone.disk["token shards"])
    rows = dict(plan_rows(mixed))
    assert rows["  news@1"] == "189,952; 1 epochs; weight 0.5" and "  news@1" not in dict(plan_rows(alone))
    assert json.loads(json.dumps(mixed.as_json()))["mixture"][1]["tokens"] == 189_952
    short = planned(tmp_path, recipe(total_tokens="100000000"), more=[news])
    assert short.num_steps > mixed.num_steps  # the main corpus has no cap: it goes on alone


def test_a_decay_takes_its_batch_over(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = state_at(5, tokens_seen=5 * 512, recipe=recipe().model_dump())
    folder = tmp_path / "step-00000005"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    mark = {"state": state.model_dump(mode="json"), "files": {"model.safetensors": {"num_bytes": 7}}}
    (folder / "state.json").write_text(json.dumps(mark))
    chosen = recipe().model_copy(update={"decay_from": str(folder), "global_batch_tokens": None})
    assert planned(tmp_path, chosen).batch_tokens == 512
