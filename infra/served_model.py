"""The registered model as MLflow loads it (`mlflow.pyfunc.load_model`): prompts in, continuations out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc

from tasks.generation import TextGenerator


class Continuation(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Continues each prompt of a list of strings."""

    def load_context(self, context: Any) -> None:
        self._generator = TextGenerator.load(Path(context.artifacts["files"]))

    def predict(self, context: Any, model_input: list[str], params: dict[str, Any] | None = None) -> list[str]:
        options = dict(params or {})
        return [self._generator.continuation(prompt, **options) for prompt in model_input]


mlflow.models.set_model(Continuation())
