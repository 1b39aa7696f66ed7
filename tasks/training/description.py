"""`run.json`: what a run is, for people and for what follows it. A decay also reads there what it began at."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from model.config import num_parameters
from tasks.training.course import Course


def run_description(course: Course, device_type: str) -> dict[str, Any]:
    """As plain values."""
    first = course.corpora[0].shards
    return {
        "recipe": course.recipe.model_dump(mode="json"),
        "decoder": course.decoder.to_dict(),
        "num_parameters": num_parameters(course.decoder),
        "num_steps": course.planned_steps,
        "batch_tokens": course.hyper_parameters.batch_tokens,
        "peak_learning_rate": course.schedule.peak,
        "warmup_tokens": course.schedule.warmup_tokens,
        "train_tokens": sum(corpus.shards.num_tokens for corpus in course.corpora),
        "leftover_tokens_per_epoch": course.loader.num_leftover_tokens,
        "held_out_tokens": course.held_out.num_tokens,
        "corpus_digest": first.corpus_digest,
        "tokens_digests": list(course.tokens_digests),
        "mixture": list(course.mixture),
        "tokenizer_sha256": first.tokenizer_sha256,
        "start": asdict(course.start),
        "torch": torch.__version__,
        "device": device_type,
        "world_size": course.parallelism.world_size,
    }
