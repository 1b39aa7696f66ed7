"""Training: what a job is, what is refused before it starts, and the loop (`tasks.training.loop` tells the story)."""

from tasks.training.course import check_job
from tasks.training.job import CHECKPOINTS, RUN_FILE, TrainingDivergedError, TrainJob, TrainResult
from tasks.training.loop import train

__all__ = ["CHECKPOINTS", "RUN_FILE", "TrainJob", "TrainResult", "TrainingDivergedError", "check_job", "train"]
