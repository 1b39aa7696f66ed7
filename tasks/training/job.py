"""What a training process is given, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from tasks.evaluation.bits_per_byte import BitsPerByte
from tasks.mixture import MixtureSource
from tasks.recipes.pretraining import PretrainRecipe
from tasks.rule import Configuration

RUN_FILE, CHECKPOINTS = "run.json", "checkpoints"


class TrainJob(Configuration):
    """All that a training process needs, as paths and numbers. Every process of a run gets the same job."""

    corpora: tuple[MixtureSource, ...] = Field(
        min_length=1, description="What is trained on; the first one's held-out split is what is evaluated"
    )
    tokenizer_file: Path = Field(description="The tokenizer that their shards were made with")
    run_dir: Path = Field(description="Receives metrics, samples, spikes, run.json; shared by all processes")
    recipe: PretrainRecipe
    corpus_dir: Path | None = Field(
        None, description="The version of the first corpus, which knows the languages of the documents held out"
    )
    checkpoints: str = Field("", description="Folder or URL of the checkpoints; empty: checkpoints/ in run_dir")
    resume: bool = Field(False, description="Continue from the newest checkpoint, where there is one")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto takes the GPU where there is one"
    )

    @property
    def checkpoints_location(self) -> str:
        """Where the checkpoints are, as a path or URL."""
        return self.checkpoints or str(self.run_dir / CHECKPOINTS)


class TrainingDivergedError(ValueError):
    """The run can not go on: a figure is no longer finite, or every way around a spike was tried."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a call of `train` ended: at the run's end, or stopped before it at a checkpoint."""

    step: int
    num_steps: int
    tokens_seen: int
    loss: float
    held_out: BitsPerByte | None  # always there where the run is complete
    checkpoint: str  # folder or URL
    metrics_file: Path
    num_parameters: int

    @property
    def complete(self) -> bool:
        return self.step == self.num_steps
