"""The registered model as MLflow loads it (`mlflow.pyfunc.load_model`): prompts in, continuations out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

from infra.served_options import generation_options
from tasks.generation import TextGenerator
from tasks.tokenizer import TOKENIZER_FILE


class Continuation(PythonModel):
    """Continues each prompt of a list of strings, several at a time, with the options of `infra.served_options`."""

    def load_context(self, context: Any) -> None:
        files = Path(context.artifacts["files"])
        self._generator = TextGenerator.load(files, files / TOKENIZER_FILE)

    def predict(self, context: Any, model_input: list[str], params: dict[str, Any] | None = None) -> list[str]:
        try:
            if not all(model_input):
                raise ValueError("a prompt is empty; give some text to continue")
            return self._generator.continuations(model_input, **generation_options(params or {}))
        except ValueError as error:  # MLflow's server answers any other error with a traceback
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error


set_model(Continuation())
