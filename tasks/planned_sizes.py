"""All that follows from a recipe, corpora and a number of workers, without running anything: sizes, memory, disk, time.

Memory is `model.memory`'s, and what a process takes beside torch. Time without probe steps is that of constants that
were measured or published, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from model.config import PRESETS, num_flops_per_token, num_parameters
from model.flops import peak_flop_per_s
from model.memory import DeviceMemory, checkpoint_bytes, device_memory, evaluation_memory
from tasks.device_facts import DeviceFacts
from tasks.evaluation.bits_per_byte import BATCH_TOKENS
from tasks.pack import token_dtype
from tasks.planned_mixture import CorpusFacts, PlannedMixture
from tasks.probe import Probe
from tasks.recipes.pretraining import PretrainRecipe
from tasks.training.course import parallelism_of

CPU_FLOP_PER_S = 220e9
"""On two CPU cores, fp32: a 10M-parameter decoder trains at 2,800 to 3,100 tokens/s, one of 26M at 1,400."""
CPU_MAX_TOKENS_PER_S = 20_000.0
"""On two CPU cores, where the network is so small that the rest of a step counts: measured at .6M parameters."""
GPU_PEAK_SHARE = 0.4
GPU_MIN_PARAMETERS = 100_000_000
"""Of a GPU's bf16 peak. Published, not measured here: torchtitan 33 to 39 % at 8B on H100, nanochat about 50 % at 124M.
Of smaller networks, which do not fill such a GPU, nothing is said."""
RULE_OF_THUMB = "a rule of thumb, not this machine"
CALIBRATE = "`tokenmill plan` measures it by probe steps"
FORWARD_SHARE = 1 / 3
"""Of a training step's operations (Chowdhery et al. 2022): what an evaluation takes a token."""

PROCESS_BYTES: Mapping[str, int] = {"cpu": 590_000_000, "cuda": 900_000_000}
"""Beside what torch hands out. CPU: a training process after its imports (Python 3.11, torch 2.13), and what its
threads and libraries take later; measured at .8M parameters, 576 and 638 MB, and at 10M, 484. GPU, not measured here:
the CUDA context with its kernels, and the workspaces of cuBLAS and NCCL."""

_SMALLER_PRESETS = sorted(
    PRESETS, key=lambda name: PRESETS[name].d_model * PRESETS[name].num_layers * PRESETS[name].d_ff, reverse=True
)


class PlannedSizes:
    """All that follows from a recipe, corpora (the first is evaluated on) and a number of workers."""

    def __init__(
        self, recipe: PretrainRecipe, corpora: tuple[CorpusFacts, ...], workers: int, facts: DeviceFacts
    ) -> None:
        self.recipe, self.corpora, self.workers, self.facts = recipe, corpora, workers, facts
        corpus = corpora[0]
        self.config = recipe.decoder_config()
        self.parallelism = parallelism_of(recipe, workers, facts.type)
        self.parameters = num_parameters(self.config)
        self.flop_per_token = num_flops_per_token(self.config, recipe.seq_len)
        self.mixture = PlannedMixture(
            corpora,
            held_out_fraction=recipe.held_out_fraction,
            seq_len=recipe.seq_len,
            vocab_size=recipe.vocab_size,
        )
        self.tokens_per_epoch = self.mixture.tokens_per_epoch
        self.batch_tokens = recipe.batch_tokens(self.tokens_per_epoch)
        self.num_steps = self.mixture.num_steps(recipe.num_steps(self.tokens_per_epoch), self.batch_tokens)
        self.tokens = self.num_steps * self.batch_tokens
        self.num_evaluations = -(-self.num_steps // recipe.evaluate_every_steps)  # and one after the last step
        self.num_checkpoints = -(-self.num_steps // recipe.checkpoint_every_steps)
        self.checkpoint_bytes = checkpoint_bytes(self.config, recipe.optimizer)
        held_out = max(1, int(corpus.documents * recipe.held_out_fraction))
        self.tokens_per_document = max(1, corpus.tokens(recipe.vocab_size) // max(1, corpus.documents))
        self.evaluated_tokens = min(recipe.evaluate_max_documents, held_out) * self.tokens_per_document
        # workers beyond this machine's cores are taken to have machines like it
        on_one_device = min(workers, facts.cores) if facts.type == "cpu" else 1
        self.memory_each = facts.memory_bytes // on_one_device
        self.num_devices = -(-workers // on_one_device)
        self.is_counted = all(each.counted is not None for each in corpora)

    @property
    def length_is_exact(self) -> bool:
        """Whether the run would have as many steps if the corpora were a third larger, or a quarter smaller."""
        others = (int(share * self.tokens_per_epoch) for share in (3 / 4, 4 / 3))
        now = (self.num_steps, self.batch_tokens)
        return self.is_counted or all(
            (self.recipe.num_steps(other), self.recipe.batch_tokens(other)) == now for other in others
        )

    def check_layout(self) -> None:
        """ValueError for workers that do not divide."""
        self.parallelism.validate(self.workers, self.config)
        sequences = self.batch_tokens // self.recipe.seq_len
        if sequences % self.parallelism.data:
            raise ValueError(
                f"a batch of {sequences} sequences does not divide into {self.parallelism.data} equal shares; choose "
                f"workers among the divisors of {sequences}"
            )

    def check_memory(self) -> None:
        """ValueError for what does not fit, with the first change that does."""
        needed = sum(self.memory(None).values())
        if needed <= self.memory_each:
            return
        has = f"a process needs {gigabytes(needed)} and has {gigabytes(self.memory_each)} ({self.facts.name})"
        for changes in self._smaller():
            smaller = PlannedSizes(self.recipe.model_copy(update=changes), self.corpora, self.workers, self.facts)
            if (then := sum(smaller.memory(None).values())) <= self.memory_each:
                settings = " ".join(f"{name}={str(value).lower()}" for name, value in changes.items())
                raise ValueError(f"{has}: it fits with {settings} ({gigabytes(then)})")
        raise ValueError(f"{has}, and no smaller network or microbatch fits: use a device with more memory")

    def _smaller(self) -> Iterator[dict[str, Any]]:
        """Changes to the recipe that take less memory, those first that cost least."""
        sizes = [size for size in (2**power for power in range(20, -1, -1)) if size < self.recipe.microbatch_sequences]
        for size in sizes:
            yield {"microbatch_sequences": size}
        recompute = {"activation_checkpointing": "block"}
        yield recompute
        for size in sizes:
            yield {"microbatch_sequences": size, **recompute}
        if self.parallelism.data > 1:
            yield {"sharded": True}
            yield {"sharded": True, "microbatch_sequences": 1, **recompute}
        for name in _SMALLER_PRESETS[_SMALLER_PRESETS.index(self.recipe.model) + 1 :]:
            yield {"model": name}
            yield {"model": name, "microbatch_sequences": 1, **recompute}

    @property
    def _own_sequences(self) -> int:
        """Of a batch, one process's."""
        return self.batch_tokens // self.recipe.seq_len // self.parallelism.data

    @property
    def microbatch_sequences(self) -> int:
        return min(self.recipe.microbatch_sequences, self._own_sequences)

    @property
    def num_microbatches(self) -> int:
        """Of one process in a step."""
        return -(-self._own_sequences // self.microbatch_sequences)

    def _torch_memory(self) -> tuple[DeviceMemory, DeviceMemory]:
        """Of a step, and of an evaluation."""
        common: dict[str, Any] = {
            "optimizer": self.recipe.optimizer,
            "parallelism": self.parallelism,
            "device_type": self.facts.type,
            "num_microbatches": self.num_microbatches,
        }
        step = device_memory(
            self.config,
            microbatch_sequences=self.microbatch_sequences,
            seq_len=self.recipe.seq_len,
            document_mask=self.recipe.document_mask,
            **common,
        )
        at_once = min(self.evaluated_tokens, max(BATCH_TOKENS, self.recipe.seq_len))
        return step, evaluation_memory(self.config, batch_tokens=at_once, **common)

    def memory(self, measured: Probe | None) -> dict[str, int]:
        """Of one process, on its device.

        On a GPU that is a step's or an evaluation's, whichever is more. On a CPU the system's allocator does not give
        back what a step has freed in blocks below 32 MiB (mallopt(3), M_MMAP_THRESHOLD), an evaluation's larger ones
        come on top, and so does a checkpoint, which is copied before it is written. What a process takes beside all
        that is the probe's, where there is one: what it had at most, without these parts.
        """
        step, evaluation = self._torch_memory()
        process = PROCESS_BYTES[self.facts.type]
        if self.facts.type == "cuda":
            return {"process": process, **max(step, evaluation, key=lambda memory: memory.peak_bytes).parts()}
        parts = step.parts()
        parts["evaluation"] = evaluation.activations_bytes + evaluation.loss_bytes
        parts["checkpoint"] = self.checkpoint_bytes // (self.parallelism.data if self.parallelism.sharded else 1)
        if measured is not None:
            process = max(0, measured.peak_bytes - sum(parts.values()))
        return {"process": process, **parts}

    def disk(self, *, keeps_checkpoints_there: bool) -> dict[str, int]:
        """Checkpoints at their most: those kept, the last good one, where it may be an older one, and one that is being
        written; the registered model's weights; token shards, where there are none yet."""
        recipe = self.recipe
        all_are_good = recipe.checkpoint_every_steps % recipe.evaluate_every_steps == 0
        at_most = min(self.num_checkpoints, recipe.keep_checkpoints + (1 if all_are_good else 2))
        to_pack = sum(corpus.tokens(recipe.vocab_size) for corpus in self.corpora if corpus.counted is None)
        return {
            "checkpoints": at_most * self.checkpoint_bytes if keeps_checkpoints_there else 0,
            "model": self.parameters * 4,
            "token shards": to_pack * token_dtype(self.config.vocab_size).itemsize,
        }

    def seconds(self, measured: Probe | None) -> tuple[dict[str, float], str]:
        """By part, and what says so."""
        if measured is not None:
            seconds_of = {
                "start": measured.start_s,
                "steps": self.num_steps * measured.step_s,
                "evaluations": self.num_evaluations * measured.evaluation_s,
                "checkpoints": self.num_checkpoints * measured.checkpoint_s,
            }
            return seconds_of, f"{measured.num_steps} probe steps"
        tokens_per_s, based_on = self._known_tokens_per_s()
        if tokens_per_s is None:
            return {}, based_on
        forward_s = self.evaluated_tokens * FORWARD_SHARE / tokens_per_s
        return {
            "steps": self.tokens / tokens_per_s,
            "evaluations": self.num_evaluations * forward_s,
        }, based_on

    def _known_tokens_per_s(self) -> tuple[float | None, str]:
        if self.facts.type == "cpu":
            speed = self.num_devices * min(CPU_MAX_TOKENS_PER_S, CPU_FLOP_PER_S / self.flop_per_token)
            return speed, f"{RULE_OF_THUMB}, from two CPU cores; {CALIBRATE}"
        import torch

        peak = peak_flop_per_s(self.facts.name, torch.bfloat16)
        if peak is None or self.parameters < GPU_MIN_PARAMETERS:
            return None, "nothing: no figure for this device and size without probe steps"
        return self.workers * GPU_PEAK_SHARE * peak / self.flop_per_token, (
            f"{RULE_OF_THUMB}, {GPU_PEAK_SHARE:.0%} of the device's peak; {CALIBRATE}"
        )


def gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 10_000_000 else f"{num_bytes / 1e6:,.2f} MB"
