"""The file of results: what a run that has only begun leaves of it."""

from __future__ import annotations

import json
from pathlib import Path

from flows.ablate_results import ABLATION_FILE, begin, earlier_run


def test_an_earlier_result_stays_until_there_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "ablation"
    assert earlier_run(folder) == ""
    begin(folder, "run-1")
    assert earlier_run(folder) == "run-1"
    finished = {"mlflow_run_id": "run-1", "outcome": "a is better"}
    (folder / ABLATION_FILE).write_text(json.dumps(finished))
    begin(folder, earlier_run(folder))
    assert json.loads((folder / ABLATION_FILE).read_bytes()) == finished
    begin(folder, "run-2")  # MLflow has lost the first one
    assert json.loads((folder / ABLATION_FILE).read_bytes()) == finished | {"mlflow_run_id": "run-2"}
