"""The options of the registered model as MLflow knows them: it drops, with a warning, what a signature does not name.

A signature has no default for "none": a `top_k` of 0 and a `top_p` of 1 stand for all tokens, and so does None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mlflow.types import DataType, ParamSchema, ParamSpec

from model.sampling import Sampling
from tasks.generation import DEFAULT_NEW_TOKENS, Options


def served_options(max_seq_len: int) -> ParamSchema:
    """Names, types and defaults, for a model of so many positions."""
    sampling = Sampling(max_new_tokens=min(DEFAULT_NEW_TOKENS, max_seq_len // 2))  # leaves room for a prompt
    return ParamSchema(
        [
            ParamSpec("max_new_tokens", DataType.long, sampling.max_new_tokens),
            ParamSpec("temperature", DataType.double, sampling.temperature),
            ParamSpec("top_k", DataType.long, sampling.top_k or 0),
            ParamSpec("top_p", DataType.double, sampling.top_p or 1.0),
            ParamSpec("repetition_penalty", DataType.double, sampling.repetition_penalty),
            ParamSpec("seed", DataType.long, sampling.seed),
            ParamSpec("stop", DataType.string, [], shape=(-1,)),
        ]
    )


def generation_options(params: Mapping[str, Any]) -> Options:
    """What `tasks.generation` calls them; of the other options, None stands for the default."""
    all_tokens = {"top_k": 0, "top_p": 1}
    chosen: dict[str, Any] = {name: value for name, value in params.items() if value is not None}
    chosen |= {name: None for name, value in all_tokens.items() if params.get(name, -1) in (None, value)}
    return cast(Options, chosen)
