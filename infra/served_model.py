"""The registered model as MLflow loads it (`mlflow.pyfunc.load_model`): prompts in, continuations out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from tasks.generation import TextGenerator


class Continuation(PythonModel):
    """Continues each prompt of a list of strings."""

    def load_context(self, context: Any) -> None:
        self._generator = TextGenerator.load(Path(context.artifacts["files"]))

    def predict(self, context: Any, model_input: list[str], params: dict[str, Any] | None = None) -> list[str]:
        options = dict(params or {})
        return [self._generator.continuation(prompt, **options) for prompt in model_input]


set_model(Continuation())
