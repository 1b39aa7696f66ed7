"""An earlier training run as MLflow knows it: by its id, how it ended and where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from infra.tracking_client import client
from tasks.store import Store

RUN_DIR_TAG = "tokenmill.run_dir"


@dataclass(frozen=True)
class EarlierRun:
    """A run of `pretrain`, whether it is over or not."""

    run_id: str
    name: str
    status: str  # MLflow's: RUNNING, FINISHED, FAILED, KILLED
    run_dir: Path


def find_earlier_run(store: Store, run_id: str) -> EarlierRun:
    """The training run of this id. ValueError where MLflow has none, or where it trained nothing."""
    try:
        run = client(store).get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ValueError(f"MLflow has no run {run_id}: copy the id from the page of the run to go on with") from error
    run_dir = run.data.tags.get(RUN_DIR_TAG)
    if run_dir is None:
        raise ValueError(f"run {run_id} ({run.info.run_name}) trained nothing: give the id of a pretrain run")
    return EarlierRun(run_id, str(run.info.run_name), str(run.info.status), Path(run_dir))
