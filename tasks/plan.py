"""What a training run would take, before it is paid for: memory, disk, time and money; and whether it fits at all.

Sizes follow from the recipe and the corpus' facts, memory from `model.memory`. Time is that of a few probe steps
(`tasks.probe`), or, without them, of measured constants. It is the time of training alone, on one kind of device:
tokenising comes before it, and so does what Ray takes to start.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.checkpoints import read_state
from tasks.device_facts import DeviceFacts, device_facts
from tasks.planned_mixture import CorpusFacts, PlannedShare
from tasks.planned_sizes import PlannedSizes
from tasks.probe import Probe, run_probe
from tasks.recipes.pretraining import PretrainRecipe
from tasks.training import CHECKPOINTS


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A run's figures. Seconds are None where nothing is known of the device, cost where there is no price."""

    corpus: str  # the main one
    estimated_corpus_tokens: int  # of all corpora; exact where `corpus_is_counted`
    corpus_is_counted: bool  # all are tokenised already, with this tokenizer
    length_is_exact: bool  # the number of steps does not hang on an estimate
    token_shards: tuple[str, ...]
    mixture: tuple[PlannedShare, ...]  # of several corpora, the main one first; empty for one
    recipe_name: str
    model: str
    device: str
    workers: int
    num_devices: int  # that are paid for: GPUs, or machines like this one where the workers share CPU cores
    parameters: int
    flop: int
    tokens: int
    epochs: float
    tokens_per_parameter: float
    batch_tokens: int
    num_steps: int
    num_evaluations: int
    num_checkpoints: int
    checkpoint_bytes: int
    memory: Mapping[str, int]  # bytes of one process by part, at its peak
    peak_bytes: int
    device_bytes: int  # what a process may have of its device
    disk: Mapping[str, int]  # bytes by part
    disk_bytes: int
    free_disk_bytes: int
    seconds_of: Mapping[str, float]  # by part; empty where it is not known
    seconds: float | None
    tokens_per_s: float | None  # of the steps alone, all workers together
    based_on: str
    price_per_device_hour: float | None
    cost: float | None

    def as_json(self) -> dict[str, Any]:
        """Every figure, by name."""
        return {**asdict(self), "token_shards": list(self.token_shards), "mixture": [asdict(s) for s in self.mixture]}


def training_plan(
    recipe: PretrainRecipe,
    corpus: CorpusFacts,
    *,
    more: Sequence[CorpusFacts] = (),
    folder: Path,
    keeps_checkpoints_there: bool = True,
    workers: int = 1,
    device: str = "auto",
    price_per_device_hour: float | None = None,
    probe: bool = True,
) -> TrainingPlan:
    """The plan of a run whose files go into `folder`, by so many workers on devices of this machine's kind.

    It is trained on `corpus`, which is evaluated on, and on `more`. Without `probe` nothing is run and nothing is
    written. Raises ValueError in one line for a layout that does not divide, for weights and caps that leave nothing to
    train on, for a corpus of less than its part of one batch, and for what does not fit into memory, with what
    would, or onto the disk.
    """
    facts = device_facts(device)
    recipe = _as_it_goes_on(recipe)
    sizes = PlannedSizes(recipe, (corpus, *more), workers, facts)
    sizes.check_layout()
    sizes.mixture.check_batch(sizes.batch_tokens, sizes.parallelism.data)
    sizes.check_memory()
    measured = _measured(sizes, facts) if probe else None
    memory = sizes.memory(measured)
    disk = sizes.disk(keeps_checkpoints_there=keeps_checkpoints_there)
    free_disk_bytes = shutil.disk_usage(_existing(folder)).free
    to_write = sum(disk.values()) - _written_bytes(folder / CHECKPOINTS)
    if to_write > free_disk_bytes:
        raise ValueError(
            f"the run has {to_write / 1e6:,.1f} MB to write and {free_disk_bytes / 1e6:,.1f} MB are free in "
            f"{_existing(folder)}: make room, or lower keep_checkpoints ({recipe.keep_checkpoints})"
        )
    seconds_of, based_on = sizes.seconds(measured)
    seconds = sum(seconds_of.values()) if seconds_of else None
    has_cost = seconds is not None and price_per_device_hour is not None
    return TrainingPlan(
        corpus=corpus.reference,
        estimated_corpus_tokens=sum(each.tokens(recipe.vocab_size) for each in sizes.corpora),
        corpus_is_counted=sizes.is_counted,
        length_is_exact=sizes.length_is_exact,
        token_shards=tuple(name for each in sizes.corpora for name in each.token_shards),
        mixture=sizes.mixture.shares(sizes.tokens) if more else (),
        recipe_name=recipe.name,
        model=recipe.model,
        device=facts.name,
        workers=workers,
        num_devices=sizes.num_devices,
        parameters=sizes.parameters,
        flop=sizes.flop_per_token * sizes.tokens,
        tokens=sizes.tokens,
        epochs=round(sizes.tokens / max(1, sizes.tokens_per_epoch), 2),
        tokens_per_parameter=round(sizes.tokens / sizes.parameters, 2),
        batch_tokens=sizes.batch_tokens,
        num_steps=sizes.num_steps,
        num_evaluations=sizes.num_evaluations,
        num_checkpoints=sizes.num_checkpoints,
        checkpoint_bytes=sizes.checkpoint_bytes,
        memory=memory,
        peak_bytes=sum(memory.values()),
        device_bytes=sizes.memory_each,
        disk=disk,
        disk_bytes=sum(disk.values()),
        free_disk_bytes=free_disk_bytes,
        seconds_of={name: round(value, 3) for name, value in seconds_of.items()},
        seconds=None if seconds is None else round(seconds, 1),
        tokens_per_s=round(sizes.tokens / seconds_of["steps"], 1) if seconds_of else None,
        based_on=based_on,
        price_per_device_hour=price_per_device_hour,
        cost=round(seconds / 3600 * sizes.num_devices * price_per_device_hour, 2)  # type: ignore[operator]
        if has_cost
        else None,
    )


def _written_bytes(checkpoints: Path) -> int:
    """What a run that goes on has there already, and replaces one by one."""
    return sum(file.stat().st_size for file in checkpoints.rglob("*") if file.is_file())


def _as_it_goes_on(recipe: PretrainRecipe) -> PretrainRecipe:
    """A decay takes its batch over from the checkpoint that it begins at."""
    if not recipe.decay_from or recipe.global_batch_tokens is not None:
        return recipe
    state = read_state(recipe.decay_from)
    return recipe.model_copy(update={"global_batch_tokens": state.tokens_seen // state.step})


def _measured(sizes: PlannedSizes, facts: DeviceFacts) -> Probe:
    places, kind = (facts.count, "GPUs") if facts.type == "cuda" else (facts.cores, "CPU cores")
    if sizes.workers > places:
        raise ValueError(
            f"probe steps of {sizes.workers} workers need as many {kind} here and there are {places}: plan without "
            "them (--no-probe)"
        )
    return run_probe(
        sizes.recipe,
        batch_tokens=sizes.batch_tokens,
        workers=sizes.workers,
        device=facts.type,
        evaluated_tokens=sizes.evaluated_tokens,
        tokens_per_document=sizes.tokens_per_document,
    )


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.is_dir())
