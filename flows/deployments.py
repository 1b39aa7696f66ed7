"""What the operator finds in Prefect: one deployment for each flow, and the nightly refresh, paused.

`python -m flows.deployments` registers them with the server at PREFECT_API_URL and runs what is triggered there.
"""

from __future__ import annotations

from prefect import serve
from prefect.schedules import Cron

from flows.evaluate import evaluate
from flows.parameters import EvaluateParameters, PipelineParameters, PretrainParameters, RefreshParameters
from flows.pipeline import pipeline
from flows.pretrain import pretrain
from flows.refresh_corpus import refresh_corpus


def _defaults(parameters: object) -> dict[str, object]:
    assert hasattr(parameters, "model_dump")
    return {"parameters": parameters.model_dump(mode="json")}


def main() -> None:
    """Serve every deployment until the process is told to end."""
    serve(
        refresh_corpus.to_deployment(
            "refresh",
            parameters=_defaults(RefreshParameters(recipe="documentation")),
            description="Raw pages to a published corpus version.",
        ),
        refresh_corpus.to_deployment(
            "nightly-refresh",
            parameters=_defaults(RefreshParameters(recipe="documentation")),
            description="The refresh at 02:00 UTC, paused until you switch its schedule on.",
            schedule=Cron("0 2 * * *", timezone="UTC", active=False),
        ),
        pretrain.to_deployment(
            "pretrain",
            parameters=_defaults(PretrainParameters()),
            description="A corpus version to a registered model version.",
        ),
        evaluate.to_deployment(
            "evaluate", parameters=_defaults(EvaluateParameters()), description="A model version to its scores."
        ),
        pipeline.to_deployment(
            "pipeline", parameters=_defaults(PipelineParameters()), description="The whole job, as one run."
        ),
    )


if __name__ == "__main__":
    main()
