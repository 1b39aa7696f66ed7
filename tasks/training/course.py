"""What is settled of a run before a network is built (data, length, layout, schedule), and what is refused there.

`plan_course` reads manifests and the newest checkpoint's description, and builds nothing: the driver asks it before any
worker starts (`check_job`), each process before it trains.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from model.config import DecoderConfig
from model.parallel import Parallelism
from model.scaling import HyperParameters
from model.schedule import Schedule, WarmupCosine, WarmupStableDecay, decay_start_tokens, warmup_tokens
from tasks.checkpoints import CheckpointState, latest_checkpoint, read_state
from tasks.loader import TokenLoader
from tasks.mixture import MixedCorpus, open_corpora
from tasks.pack import TokenShards
from tasks.recipes.pretraining import PretrainRecipe, resume_differences
from tasks.tokenizer import tokenizer_hash
from tasks.training.job import RUN_FILE, TrainJob
from tasks.training.skipped import Windows, num_skipped


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins: nowhere, or at the checkpoint that it decays from."""

    folder: str = ""
    step: int = 0
    tokens: int = 0
    batch_tokens: int = 0
    learning_rate: float = 0.0  # the peak it was trained with
    skipped: Windows = ()


@dataclass(frozen=True, kw_only=True)
class Course:
    """A run as it is planned. The same in every process."""

    recipe: PretrainRecipe
    decoder: DecoderConfig
    parallelism: Parallelism
    corpora: tuple[MixedCorpus, ...]
    held_out: TokenShards
    loader: TokenLoader
    hyper_parameters: HyperParameters
    schedule: Schedule
    start: Start
    planned_steps: int  # number of the last step

    def num_steps(self, skipped: Windows) -> int:
        """The number of the last step, where these batches are left out: the corpora's caps may end the run earlier."""
        if self.loader.max_steps is None:
            return self.planned_steps
        return min(self.planned_steps, self.loader.max_steps - num_skipped(skipped))

    def drawn_tokens(self, batch: int, skipped: Windows) -> dict[str, int]:
        """Of each corpus, trained on with the batches up to this one; empty where there is one corpus."""
        if len(self.corpora) == 1:
            return {}
        tokens = {drawn.corpus: drawn.tokens for drawn in self.loader.drawn(batch + 1)}
        for first, last in skipped:
            if last < batch:
                before = {drawn.corpus: drawn.tokens for drawn in self.loader.drawn(first)}
                tokens = {
                    drawn.corpus: tokens[drawn.corpus] - drawn.tokens + before[drawn.corpus]
                    for drawn in self.loader.drawn(last + 1)
                }
        return tokens

    @property
    def tokens_digests(self) -> tuple[str, ...]:
        return tuple(corpus.shards.digest for corpus in self.corpora)

    @property
    def mixture(self) -> tuple[dict[str, Any], ...]:
        """Names, weights and caps of the corpora, as a checkpoint has them."""
        return tuple(corpus.source.model_dump(mode="json", exclude={"tokens_dir"}) for corpus in self.corpora)


def check_job(
    job: TrainJob, world_size: int, *, processes_per_node: int | None = None, num_gpus: int | None = None
) -> None:
    """Refuse what can not be trained by `world_size` processes: ValueError in one line.

    `num_gpus` are those of the cluster: where it has some, each process takes one; None does not look.
    """
    wants_gpus = job.device.startswith("cuda") or (job.device == "auto" and bool(num_gpus))
    if num_gpus is not None and wants_gpus and world_size > num_gpus:
        raise ValueError(
            f"{world_size} processes need a GPU each and there are {num_gpus}: take fewer processes, or device cpu"
        )
    course = plan_course(job, world_size, "cuda" if wants_gpus else "cpu")
    course.parallelism.validate(world_size, course.decoder, processes_per_node=processes_per_node)


def plan_course(job: TrainJob, world_size: int, device_type: str) -> Course:
    """Resolve the job for `world_size` processes; reads little, writes and builds nothing. Raises ValueError."""
    recipe, decoder = job.recipe, job.recipe.decoder_config()
    corpora = open_corpora(job.corpora)
    held_out = TokenShards(job.corpora[0].tokens_dir, "held_out")
    _check_tokenizer(job, corpora[0].shards, decoder)
    if not held_out.num_bytes:
        raise ValueError(f"{held_out.tokens_dir} holds out no text to evaluate on: raise held_out_fraction")
    start = _start(job, corpora)
    parallelism = parallelism_of(recipe, world_size, device_type)
    parallelism.validate(world_size, decoder)

    windows = sum(max(0, corpus.shards.num_tokens - 1) // recipe.seq_len for corpus in corpora)
    resolved = _resolved(recipe, start)
    hyper = resolved.hyper_parameters(windows * recipe.seq_len)
    loader = TokenLoader(
        corpora,
        seq_len=recipe.seq_len,
        global_batch_sequences=hyper.batch_tokens // recipe.seq_len,
        seed=recipe.seed,
    )
    loader.batch(0, world_size=parallelism.data)  # refuses a batch that can not be shared
    planned_steps = start.step + hyper.total_tokens // hyper.batch_tokens
    if loader.max_steps is not None:
        planned_steps = min(planned_steps, loader.max_steps - num_skipped(start.skipped))
    if planned_steps <= start.step:
        raise ValueError(
            f"{start.folder} has used up what the caps of the corpora allow, {start.step} steps: raise max_epochs or "
            "max_tokens"
        )
    course = Course(
        recipe=recipe,
        decoder=decoder,
        parallelism=parallelism,
        corpora=corpora,
        held_out=held_out,
        loader=loader,
        hyper_parameters=hyper,
        schedule=_schedule(recipe, hyper, start, planned_steps),
        start=start,
        planned_steps=planned_steps,
    )
    _check_newest_checkpoint(job, course)
    return course


def parallelism_of(recipe: PretrainRecipe, world_size: int, device_type: str) -> Parallelism:
    """The recipe's layout for so many processes; one that does not divide is left for `validate` to refuse."""
    return Parallelism(
        data=max(1, world_size // recipe.tensor),
        tensor=recipe.tensor,
        sharded=recipe.sharded,
        activation_checkpointing=recipe.activation_checkpointing,
        compile=recipe.compile,
        bf16=recipe.precision == "bf16" or (recipe.precision == "auto" and device_type == "cuda"),
    )


def _check_tokenizer(job: TrainJob, shards: TokenShards, decoder: DecoderConfig) -> None:
    if not job.tokenizer_file.is_file():
        raise ValueError(f"there is no tokenizer {job.tokenizer_file}: give the one that the shards were made with")
    found = tokenizer_hash(job.tokenizer_file)
    if found != shards.tokenizer_sha256:
        raise ValueError(
            f"{shards.tokens_dir} was made with another tokenizer than {job.tokenizer_file} "
            f"({shards.tokenizer_sha256[:12]}, not {found[:12]}): tokenise again, or give that other one"
        )
    if shards.vocab_size > decoder.vocab_size:
        raise ValueError(
            f"the tokenizer has {shards.vocab_size} tokens, the network's vocabulary only {decoder.vocab_size}: set "
            "tokenizer.vocab_size to what the tokenizer was trained with"
        )


def _resolved(recipe: PretrainRecipe, start: Start) -> PretrainRecipe:
    """A decay goes on with the batch and, where it names none, the learning rate of what it begins at."""
    if not start.folder:
        return recipe
    taken_over = {
        "global_batch_tokens": start.batch_tokens,
        "learning_rate": recipe.learning_rate or start.learning_rate,
    }
    return recipe.model_copy(update=taken_over)


def _schedule(recipe: PretrainRecipe, hyper: HyperParameters, start: Start, planned_steps: int) -> Schedule:
    total_tokens, peak = planned_steps * hyper.batch_tokens, hyper.learning_rate
    if start.folder:
        return WarmupStableDecay(
            total_tokens=total_tokens,
            peak=peak,
            warmup_tokens=0,
            decay_start_tokens=start.tokens,
            floor_fraction=recipe.floor_fraction,
            shape=recipe.decay_shape,
        )
    warmup = warmup_tokens(total_tokens, hyper.batch_tokens, recipe.warmup_fraction, recipe.min_warmup_steps)
    if recipe.schedule == "wsd":
        return WarmupStableDecay(
            total_tokens=total_tokens,
            peak=peak,
            warmup_tokens=warmup,
            decay_start_tokens=decay_start_tokens(total_tokens, recipe.decay_fraction),
            floor_fraction=recipe.floor_fraction,
            shape=recipe.decay_shape,
        )
    return WarmupCosine(
        total_tokens=total_tokens, peak=peak, warmup_tokens=warmup, floor_fraction=recipe.floor_fraction
    )


def _start(job: TrainJob, corpora: tuple[MixedCorpus, ...]) -> Start:
    """The checkpoint that the run decays from, by its description or, where the run was begun before, by what was
    written down then: the other run may have removed it since."""
    recipe = job.recipe
    if not recipe.decay_from:
        return Start()
    run_file = job.run_dir / RUN_FILE
    begun = json.loads(run_file.read_bytes()) if run_file.is_file() else {}
    if begun.get("start", {}).get("folder") == recipe.decay_from:
        values = begun["start"]
        return Start(**{**values, "skipped": tuple((first, last) for first, last in values["skipped"])})
    state = read_state(recipe.decay_from)
    batch_tokens = state.tokens_seen // state.step
    differences = [
        f"{name} ({before} there, {now} here)"
        for name, before, now in (
            ("network", DecoderConfig.from_dict(state.decoder), recipe.decoder_config()),
            ("optimizer", state.recipe.optimizer, recipe.optimizer),
            ("seq_len", state.recipe.seq_len, recipe.seq_len),
            ("seed", state.recipe.seed, recipe.seed),
            ("global_batch_tokens", batch_tokens, recipe.global_batch_tokens or batch_tokens),
        )
        if before != now
    ]
    if differences:
        raise ValueError(f"decay_from {recipe.decay_from} is of another run: {', '.join(differences)}")
    _check_data(f"decay_from {recipe.decay_from}", state, corpora)
    if recipe.learning_rate is None and state.recipe.decay_from:
        raise ValueError(f"decay_from {recipe.decay_from} is itself of a decay: set learning_rate")
    return Start(
        folder=recipe.decay_from,
        step=state.step,
        tokens=state.tokens_seen,
        batch_tokens=batch_tokens,
        learning_rate=recipe.learning_rate or trained_with(state).learning_rate,
        skipped=state.skipped,
    )


def trained_with(state: CheckpointState) -> HyperParameters:
    """Batch, peak learning rate and the rest of the run that a checkpoint is of. The rate of a decay that names none is
    not known from it: that of the run which it began at."""
    batch_tokens = state.tokens_seen // state.step
    fixed = {"total_tokens": state.num_steps * batch_tokens, "global_batch_tokens": batch_tokens}
    limits = {"epochs": None, "tokens_per_parameter": None}
    return state.recipe.model_copy(update=fixed | limits).hyper_parameters(0)


def _check_newest_checkpoint(job: TrainJob, course: Course) -> None:
    location = job.checkpoints_location
    folder = latest_checkpoint(location)
    if folder is None:
        return
    if not job.resume:
        name = folder.rstrip("/").rpartition("/")[2]
        raise ValueError(f"{location} already holds a run ({name}): resume it, or use another folder")
    state = read_state(folder)
    if changed := resume_differences(state.recipe.model_dump(mode="json"), job.recipe):
        raise ValueError(f"{folder} was made with another recipe: {', '.join(changed)}; start a new run")
    _check_data(folder, state, course.corpora)


def _check_data(what: str, state: CheckpointState, corpora: tuple[MixedCorpus, ...]) -> None:
    """ValueError where the place in the data that a checkpoint stands for would be another one now."""
    if state.tokens_digests != tuple(corpus.shards.digest for corpus in corpora):
        folders = ", ".join(str(corpus.shards.tokens_dir) for corpus in corpora)
        raise ValueError(f"{what} was made from other token shards than {folders}; start a new run")
    shares = ("weight", "max_epochs", "max_tokens")
    before = [[each[name] for name in shares] for each in state.mixture]
    now = [[getattr(corpus.source, name) for name in shares] for corpus in corpora]
    if before and before != now:
        raise ValueError(
            f"{what} drew from its corpora by other weights or caps ({before} before, {now} now: "
            f"{', '.join(shares)}); start a new run"
        )
