"""What the operator finds in Prefect: one deployment for each flow, and the nightly refresh, paused.

`python -m flows.deployments` registers them with the server at PREFECT_API_URL and runs what is triggered there, until
it gets SIGTERM: then flow runs in progress are cancelled, and recorded as that.
"""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import get_client
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Cron

from flows.evaluate import evaluate
from flows.parameters import EvaluateParameters, PipelineParameters, PretrainParameters, RefreshParameters
from flows.pipeline import pipeline
from flows.pretrain import pretrain
from flows.refresh_corpus import refresh_corpus

_NIGHTLY = "nightly-refresh"


class _Runner(Runner):
    """Prefect's runner with a SIGTERM handler that works.

    Prefect 3.8.8 calls its asynchronous `stop` without awaiting it: runs in progress are killed and stay Running for
    ever.
    """

    def handle_sigterm(self, *_: Any) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self.astop(), self._loop)


def _defaults(parameters: object) -> dict[str, object]:
    assert hasattr(parameters, "model_dump")
    return {"parameters": parameters.model_dump(mode="json")}


def _nightly_is_active() -> bool:
    """Whether the operator has switched the schedule on; registering a deployment again would switch it off."""
    with get_client(sync_client=True) as client:
        try:
            known = client.read_deployment_by_name(f"{refresh_corpus.name}/{_NIGHTLY}")
        except ObjectNotFound:
            return False
        return any(schedule.active for schedule in known.schedules)


def _deployments(nightly_is_active: bool) -> list[RunnerDeployment]:
    """By module path: the code is installed, and where it lies is none of the database's business."""
    module_path = EntrypointType.MODULE_PATH
    return [
        refresh_corpus.to_deployment(
            "refresh",
            parameters=_defaults(RefreshParameters(recipe="documentation")),
            description="Raw pages to a published corpus version.",
            entrypoint_type=module_path,
        ),
        refresh_corpus.to_deployment(
            _NIGHTLY,
            parameters=_defaults(RefreshParameters(recipe="documentation")),
            description="The refresh at 02:00 UTC, paused until you switch its schedule on.",
            schedule=Cron("0 2 * * *", timezone="UTC", active=nightly_is_active),
            entrypoint_type=module_path,
        ),
        pretrain.to_deployment(
            "pretrain",
            parameters=_defaults(PretrainParameters()),
            description="A corpus version to a registered model version.",
            entrypoint_type=module_path,
        ),
        evaluate.to_deployment(
            "evaluate",
            parameters=_defaults(EvaluateParameters()),
            description="A model version to its scores.",
            entrypoint_type=module_path,
        ),
        pipeline.to_deployment(
            "pipeline",
            parameters=_defaults(PipelineParameters()),
            description="The whole job, as one run.",
            entrypoint_type=module_path,
        ),
    ]


def main() -> None:
    """Serve every deployment until the process is told to end."""
    runner = _Runner(pause_on_shutdown=False)  # a stop must not switch the operator's schedule off
    for deployment in _deployments(_nightly_is_active()):
        runner.add_deployment(deployment)
    asyncio.run(runner.start())


if __name__ == "__main__":
    main()
