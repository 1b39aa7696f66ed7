"""Complete pretraining configurations, as functions: what to train, on how much, and how.

`smoke` shows on two CPU cores within a minute that the loss falls; `small` is the least that writes words; `full` is a
124M-parameter model for one GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import to_jsonable_python

from model.config import DecoderConfig, RopeScaling, num_parameters, preset
from model.scaling import HyperParameters, hyper_parameters
from model.schedule import DECAY_FRACTION, MAX_WARMUP_FRACTION, DecayShape
from tasks.recipes.overrides import OverrideError, apply_overrides
from tasks.rule import Configuration
from tasks.spikes import SpikeRule
from tasks.tokenizer import TokenizerConfig

FREE_ON_RESUME = frozenset(
    {
        "name",
        "microbatch_sequences",
        "tensor",
        "sharded",
        "activation_checkpointing",
        "compile",
        "checkpoint_every_steps",
        "keep_checkpoints",
        "evaluate_every_steps",
        "evaluate_max_documents",
        "spikes",
    }
)
"""Fields of the recipe that may differ when a run is resumed: none of them moves the weights but for rounding, and
for what is done about spikes that are yet to come."""


class PretrainRecipe(Configuration):
    """How a corpus version becomes a trained decoder.

    A run ends at the first of the limits `total_tokens`, `epochs` and `tokens_per_parameter` that are set; where it
    begins at the checkpoint `decay_from`, they say how much it trains on from there. What is left out of batch and
    learning rate follows from the size of the network and the length of the run (`model.scaling`); all else is the
    recipe's own: of that rule's other figures (beta2, weight decay, clipping, z-loss) none is taken over.
    """

    name: str = Field("custom", min_length=1, description="Name of the recipe, shown with the run")
    model: Literal["smoke", "10m", "30m", "124m", "350m", "1b", "8b"] = Field(description="Shape of the network")
    qk_norm: bool = Field(False, description="Normalise queries and keys of each head, as Qwen 3 does")
    rope_scaling: RopeScaling | None = Field(
        None, description="Slow the rotary angles down, to train on sequences longer than the shape was made for"
    )
    document_mask: bool = Field(
        False,
        description="Keep attention inside each document of a packed sequence; left out, it sees earlier ones too",
    )
    tokenizer: TokenizerConfig = Field(
        TokenizerConfig(), description="Trained on the first version of a corpus, kept for the later ones"
    )
    held_out_fraction: float = Field(
        0.01, gt=0, le=0.5, description="Share of near-duplicate clusters kept from training, for evaluation"
    )

    seq_len: int = Field(ge=8, le=1_048_576, description="Tokens the network sees at once")
    total_tokens: int | None = Field(None, ge=1, description="Tokens to train on at most")
    epochs: float | None = Field(
        None,
        gt=0,
        description="Passes over the corpus at most; up to 4 are nearly as good as new text (Muennighoff 2023)",
    )
    tokens_per_parameter: float | None = Field(
        None, gt=0, description="Tokens per parameter at most; about 20 is compute-optimal (Hoffmann et al. 2022)"
    )
    global_batch_tokens: int | None = Field(
        None, ge=8, description="Tokens per optimizer step, a multiple of seq_len; left out, it follows from the size"
    )
    microbatch_sequences: int = Field(
        8, ge=1, description="Sequences one process holds in memory at once; changes memory and speed, not the result"
    )

    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon trains the blocks' matrices by Muon and the rest by AdamW, at the same learning rate"
    )
    schedule: Literal["cosine", "wsd"] = Field(
        "cosine",
        description="wsd: warmup, then the peak, then a decay, which can start from any checkpoint (decay_from)",
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Peak of the schedule; left out, it follows from size, length and batch"
    )
    floor_fraction: float = Field(0.1, ge=0, le=1, description="Final learning rate as a share of the peak")
    warmup_fraction: float = Field(
        0.02, ge=0, le=MAX_WARMUP_FRACTION, description="Share of the tokens over which the learning rate rises"
    )
    min_warmup_steps: int = Field(
        100, ge=0, description="Least warmup in steps; tiny runs stop warming up after a fifth of the run"
    )
    decay_fraction: float = Field(
        DECAY_FRACTION,
        gt=0,
        le=1 - MAX_WARMUP_FRACTION,
        description="wsd: share of the tokens over which the rate falls",
    )
    decay_shape: DecayShape = Field("one_minus_sqrt", description="wsd: how the rate falls (Hägele et al. 2024)")
    decay_from: str = Field(
        "",
        description="wsd: folder or URL of a checkpoint of the same network, batch and corpora; weights, optimizer and "
        "place in the data are taken over, and this run is the decay",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW, first moment")
    beta2: float = Field(
        0.95, ge=0, lt=1, description="AdamW, second moment; set .99 for batches below about 500,000 tokens (OLMo-core)"
    )
    weight_decay: float = Field(0.1, ge=0, le=1, description="On matrices; never on embeddings and norms")
    gradient_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient")
    z_loss: float = Field(
        0.0, ge=0, lt=1, description="Weight of the squared log-normaliser in what is trained on; OLMo 2 has 1e-5"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto is bf16 autocast on a GPU and fp32 on the CPU; weights are kept in fp32"
    )

    tensor: int = Field(
        1, ge=1, description="Processes of a node that share each block; the others see other sequences"
    )
    sharded: bool = Field(
        False, description="Divide weights, gradients and optimizer state over the processes (FSDP2); else each has all"
    )
    activation_checkpointing: Literal["none", "block"] = Field(
        "none", description="block keeps only the input of each block and computes the rest again: less memory, slower"
    )
    compile: bool = Field(False, description="Compile the blocks by torch.compile; the first steps take longer")

    checkpoint_every_steps: int = Field(500, ge=1, description="Steps between checkpoints; the last step makes one too")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that are kept, beside the last good one")
    evaluate_every_steps: int = Field(
        500, ge=1, description="Steps between held-out evaluations; the last step has one"
    )
    evaluate_max_documents: int = Field(
        200, ge=1, description="Held-out documents scored in an evaluation, chosen by hash of their id"
    )
    spikes: SpikeRule = Field(SpikeRule(), description="When a step counts as a loss spike, and what is done about it")
    seed: int = Field(0, ge=0, lt=2**63, description="Initial weights and order of the data")

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        batch = self.global_batch_tokens
        if batch is not None and batch % self.seq_len:
            raise ValueError(
                f"global_batch_tokens {batch} is not a multiple of seq_len {self.seq_len}; "
                f"choose {max(1, round(batch / self.seq_len)) * self.seq_len}"
            )
        if self.total_tokens is None and self.epochs is None and self.tokens_per_parameter is None:
            raise ValueError("the run has no end: set total_tokens, epochs or tokens_per_parameter")
        if self.decay_from and self.schedule != "wsd":
            raise ValueError(f"decay_from starts a wsd decay and schedule is {self.schedule}; set schedule to wsd")
        intervals = sorted((self.checkpoint_every_steps, self.evaluate_every_steps))
        if self.spikes.policy == "rollback" and intervals[1] % intervals[0]:
            raise ValueError(
                f"checkpoints every {self.checkpoint_every_steps} steps and evaluations every "
                f"{self.evaluate_every_steps}: a rollback goes to a checkpoint that was evaluated; make one of them a "
                "multiple of the other"
            )
        return self

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer; the network's vocabulary is padded beyond it."""
        return self.tokenizer.vocab_size

    def decoder_config(self) -> DecoderConfig:
        """The network's shape."""
        shape = preset(self.model, self.vocab_size, self.seq_len)
        return dataclasses.replace(shape, qk_norm=self.qk_norm, rope_scaling=self.rope_scaling)

    def batch_tokens(self, tokens_per_epoch: int) -> int:
        """Of the global batch: `global_batch_tokens`, or the scaling rule's, given the tokens in one pass."""
        if self.global_batch_tokens is not None:
            return self.global_batch_tokens
        wanted = max(self._limit_tokens(tokens_per_epoch), self.seq_len)
        return hyper_parameters(self.decoder_config(), seq_len=self.seq_len, total_tokens=wanted).batch_tokens

    def num_steps(self, tokens_per_epoch: int) -> int:
        """Optimizer steps of the run, at least 1, given the training tokens in one pass over the corpora."""
        return max(1, self._limit_tokens(tokens_per_epoch) // self.batch_tokens(tokens_per_epoch))

    def _limit_tokens(self, tokens_per_epoch: int) -> int:
        limits = [
            self.total_tokens,
            None if self.epochs is None else self.epochs * tokens_per_epoch,
            None
            if self.tokens_per_parameter is None
            else self.tokens_per_parameter * num_parameters(self.decoder_config()),
        ]
        return int(min(limit for limit in limits if limit is not None))

    def hyper_parameters(self, tokens_per_epoch: int) -> HyperParameters:
        """What the run is trained with: the recipe's figures; where it leaves out rate or batch, the rule's."""
        batch_tokens = self.batch_tokens(tokens_per_epoch)
        rule = hyper_parameters(
            self.decoder_config(),
            seq_len=self.seq_len,
            total_tokens=self.num_steps(tokens_per_epoch) * batch_tokens,
            batch_tokens=batch_tokens,
        )
        return dataclasses.replace(
            rule,
            learning_rate=self.learning_rate or rule.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            max_grad_norm=self.gradient_clip,
            z_loss=self.z_loss,
        )


def resume_differences(before: Mapping[str, Any], now: PretrainRecipe) -> list[str]:
    """What forbids to go on with a run of the recipe `before`, as JSON has it: `seed (1 before, 0 now)`.

    `before` may come from an earlier version of the code: a field that it lacks had the value that is the default now.
    """
    current = now.model_dump(mode="json")
    fields = PretrainRecipe.model_fields.items()
    defaults = {name: to_jsonable_python(field.default) for name, field in fields if not field.is_required()}
    earlier = {name: defaults.get(name) for name in current} | dict(before)
    return [
        f"{name} ({earlier.get(name)} before, {current.get(name, 'unknown')} now)"
        for name in sorted((before.keys() | current.keys()) - FREE_ON_RESUME)
        if earlier.get(name) != current.get(name)
    ]


def smoke() -> PretrainRecipe:
    """0.8M parameters on 1M tokens: about a minute on two CPU cores, and the loss visibly falls.

    Small batches and a rate below the scaling rule's (which is meant for far longer runs) were measured best at this
    length. On 9 MB of documentation, held-out bits per byte after 655,360 tokens: batch 2048 with rates .01, .005,
    .0025, .00125: 2.86, 2.82, 2.60, 2.65; batch 1024 with .002: 2.40; and after all of this recipe's tokens 2.23.
    """
    return PretrainRecipe(
        name="smoke",
        model="smoke",
        tokenizer=TokenizerConfig(vocab_size=2048, max_train_bytes=8_000_000),
        held_out_fraction=0.05,
        seq_len=256,
        total_tokens=983_040,
        global_batch_tokens=1024,
        microbatch_sequences=4,
        learning_rate=0.002,
        min_warmup_steps=64,
        beta2=0.99,
        checkpoint_every_steps=240,
        evaluate_every_steps=120,
        evaluate_max_documents=40,
    )


def small() -> PretrainRecipe:
    """10M parameters at 20 tokens each, at most 4 passes: hours on a CPU, minutes on a GPU."""
    return PretrainRecipe(
        name="small",
        model="10m",
        tokenizer=TokenizerConfig(vocab_size=8192),
        held_out_fraction=0.01,
        seq_len=512,
        epochs=4,
        tokens_per_parameter=20,
        global_batch_tokens=65_536,
        microbatch_sequences=16,
        beta2=0.99,
        checkpoint_every_steps=100,
        evaluate_every_steps=100,
    )


def full() -> PretrainRecipe:
    """124M parameters at 20 tokens each, at most 4 passes: hours on one GPU."""
    return PretrainRecipe(
        name="full",
        model="124m",
        tokenizer=TokenizerConfig(vocab_size=50_304, max_train_bytes=1_000_000_000),
        held_out_fraction=0.001,
        seq_len=1024,
        epochs=4,
        tokens_per_parameter=20,
        global_batch_tokens=524_288,
        microbatch_sequences=32,
        min_warmup_steps=100,
        checkpoint_every_steps=500,
        evaluate_every_steps=250,
        evaluate_max_documents=1000,
    )


PRETRAIN_RECIPES: dict[str, Callable[[], PretrainRecipe]] = {"smoke": smoke, "small": small, "full": full}


def resolve_pretrain_recipe(name: str, overrides: Mapping[str, str]) -> PretrainRecipe:
    """The named recipe with overrides (`{"tokenizer.vocab_size": "2048"}`) applied.

    Raises ValueError for a recipe that there is not, an unknown key (naming the closest ones) or a refused value.
    """
    if name not in PRETRAIN_RECIPES:
        raise ValueError(f"there is no pretraining recipe {name!r}; there are {', '.join(PRETRAIN_RECIPES)}")
    try:
        return apply_overrides(PRETRAIN_RECIPES[name](), overrides)
    except OverrideError as error:
        raise OverrideError(f"recipe {name}: {error}") from error
