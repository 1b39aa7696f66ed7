"""What the operator finds in Prefect: a deployment for each flow, schedules, and automations.

`python -m flows.deployments` registers them with the server at PREFECT_API_URL and runs what is triggered there, until
it gets SIGTERM: then flow runs in progress are cancelled, and recorded as that. With `--pool NAME` it registers them on
a process work pool, whose workers run what is triggered, and ends.

What an operator has changed on a deployment stays as it is when it is registered again: its parameters, schedules,
pause and concurrency limit. The code brings its own description, form and tags.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from prefect import Flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig, FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, ParameterTypeError, SignatureMismatchError
from prefect.runner import Runner
from prefect.schedules import Cron, Schedule
from prefect.states import Cancelled
from prefect.workers.process import ProcessWorker
from pydantic import BaseModel

from flows.ablate import ablate
from flows.ablate_parameters import AblateParameters
from flows.automations import register_automations
from flows.classifier_parameters import TrainClassifierParameters
from flows.diff_versions import diff_versions
from flows.evaluate import evaluate
from flows.parameters import (
    Consent,
    Curation,
    DiffParameters,
    EvaluateParameters,
    PipelineParameters,
    PretrainParameters,
    PreviewParameters,
    ReconcileParameters,
    RefreshParameters,
    Rules,
    Training,
)
from flows.pipeline import pipeline
from flows.pretrain import pretrain
from flows.pretrain_on_publish import MIN_NEW_TOKENS, pretrain_on_publish
from flows.preview import preview_corpus
from flows.reconcile import FLOW_NAMES, reconcile
from flows.refresh_corpus import refresh_corpus
from flows.takedown import TakedownParameters, takedown
from flows.train_classifier import train_classifier
from infra.settings import current_store

_MAX_RUNS = 6
"""Flow runs at once: each is a process of some 400 MB, and most of them wait, for an approval or the training slot.
`reconcile` has a runner to itself, and so a place however many wait."""
_UPKEEP = "upkeep"

logger = logging.getLogger("prefect.tokenmill")


class _Runner(Runner):
    """Prefect's runner with a SIGTERM handler that works.

    Prefect 3.8.8 calls its asynchronous `stop` without awaiting it: runs in progress are killed and stay Running for
    ever.
    """

    _serving: ClassVar[list[_Runner]] = []  # each sets the handler of the one process that they share

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._serving.append(self)

    def handle_sigterm(self, *_: Any) -> None:
        for runner in self._serving:
            assert runner._loop is not None
            asyncio.run_coroutine_threadsafe(runner.astop(), runner._loop)


@dataclass(frozen=True)
class Offer:
    """One deployment as the code has it, before an operator changes it."""

    flow: Flow[..., Any]
    name: str
    description: str
    parameters: Mapping[str, Any]
    tag: str
    schedule: Schedule | None = None

    @property
    def full_name(self) -> str:
        return f"{self.flow.name}/{self.name}"

    @property
    def defaults(self) -> dict[str, Any]:
        return _dumped(self.parameters)

    def parameters_kept(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """An operator's parameters, with the defaults of fields that are new; all defaults where the flow has changed
        so that it would refuse them."""
        try:
            return self.defaults | _dumped(self.flow.validate_parameters(self.defaults | dict(known)))
        except (ParameterTypeError, SignatureMismatchError) as error:
            logger.warning("%s: its parameters no longer fit and are the defaults again: %s", self.full_name, error)
            return self.defaults


def _dumped(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in parameters.items()
    }


OFFERS: Sequence[Offer] = (
    Offer(
        preview_corpus,
        "preview",
        "What a recipe would do to a source, on a sample of its pages: each rule with its figures, limits, examples.",
        {"parameters": PreviewParameters(rules=Rules(recipe="documentation"))},
        "corpus",
    ),
    Offer(
        refresh_corpus,
        "refresh",
        "Raw pages to a published corpus version. Run it with other parameters by a custom run.",
        {"parameters": RefreshParameters(curation=Curation(recipe="documentation"))},
        "corpus",
    ),
    Offer(
        refresh_corpus,
        "nightly-refresh",
        "Reads what is new in its source at 02:00 UTC, and publishes a version where there is something. Its schedule"
        " is off until you switch it on; set source and corpus name first (Edit).",
        {"parameters": RefreshParameters(curation=Curation(recipe="documentation"))},
        "corpus",
        Cron("0 2 * * *", timezone="UTC", active=False),
    ),
    Offer(
        pretrain,
        "pretrain",
        "A corpus version to a registered model version.",
        {"parameters": PretrainParameters()},
        "model",
    ),
    Offer(
        pretrain,
        "weekly-pretrain",
        "Trains on the latest corpus version, Sundays at 04:00 UTC. Its schedule is off until you switch it on.",
        {"parameters": PretrainParameters(consent=Consent(min_new_tokens=MIN_NEW_TOKENS))},
        "model",
        Cron("0 4 * * 0", timezone="UTC", active=False),
    ),
    Offer(
        pretrain_on_publish,
        "pretrain-on-publish",
        "Started by the automation that listens to published corpus versions, which sets the corpus. All else is set"
        " here (Edit), above all how many new tokens it takes.",
        {"corpus": "docs", "training": Training(), "workers": 1, "consent": Consent(min_new_tokens=MIN_NEW_TOKENS)},
        "model",
    ),
    Offer(
        diff_versions,
        "diff",
        "What changed between two corpus versions: documents, tokens, domains, samples.",
        {"parameters": DiffParameters()},
        "corpus",
    ),
    Offer(
        takedown,
        "takedown",
        "Finds pages in corpora, token shards, training runs and models; takes them out of the corpora if told to.",
        {"parameters": TakedownParameters()},
        "corpus",
    ),
    Offer(evaluate, "evaluate", "A model version to its scores.", {"parameters": EvaluateParameters()}, "model"),
    Offer(
        train_classifier,
        "train-classifier",
        "Labelled texts to a registered classifier, which a gate makes what recipes name `name@champion`.",
        {"parameters": TrainClassifierParameters()},
        "model",
    ),
    Offer(
        ablate,
        "ablate",
        "Two recipes on the same pages: which one's models are better, and whether that is more than noise.",
        {"parameters": AblateParameters()},
        "model",
    ),
    Offer(pipeline, "pipeline", "The whole job, as one run.", {"parameters": PipelineParameters()}, "model"),
    Offer(
        reconcile,
        "reconcile",
        "Every ten minutes: ends what killed runs have left open, and says what it did. Touches nothing alive.",
        {"parameters": ReconcileParameters()},
        _UPKEEP,
        Cron("*/10 * * * *", timezone="UTC"),
    ),
)


def deployment(offer: Offer, known: DeploymentResponse | None, *, pool: str = "") -> RunnerDeployment:
    """`offer` to be registered: as it is, or with what an operator has changed on the one that is `known`.

    By module path: the code is installed, and where it lies is none of the database's business.
    """
    tags = {"tokenmill", offer.tag}
    options: dict[str, Any] = {"parameters": offer.defaults}
    if known is None:
        options["schedules"] = [offer.schedule] if offer.schedule else []
    else:
        tags |= set(known.tags)
        options["parameters"] = offer.parameters_kept(known.parameters)
        options["schedules"] = [
            DeploymentScheduleCreate(**schedule.model_dump(include=set(DeploymentScheduleCreate.model_fields)))
            for schedule in known.schedules
        ]
        options["paused"] = known.paused
        if (limit := known.global_concurrency_limit) is not None:
            strategy = known.concurrency_options.model_dump() if known.concurrency_options else {}
            options["concurrency_limit"] = ConcurrencyLimitConfig(limit=limit.limit, **strategy)
    made = offer.flow.to_deployment(
        offer.name,
        description=offer.description,
        tags=sorted(tags),
        entrypoint_type=EntrypointType.MODULE_PATH,
        **options,
    )
    assert isinstance(made, RunnerDeployment)
    made.work_pool_name = pool or None  # said, not left out: who serves now may have had workers before
    if pool:
        kept = (known.job_variables or {}) if known else {}
        # a worker would run each flow in an empty folder of its own; there is one, which imports nothing by accident
        made.job_variables = {**kept, "working_dir": str(current_store().root / "empty")}
    return made


def register(
    client: SyncPrefectClient, runner: Runner | None, upkeep: Runner | None = None, *, pool: str = ""
) -> dict[str, UUID]:
    """Register every deployment and automation; the deployments' ids by full name.

    With a `runner`, which then serves them, but for those that tidy up, where `upkeep` does; else on the work pool.
    """
    ids: dict[str, UUID] = {}
    for offer in OFFERS:
        try:
            known = client.read_deployment_by_name(offer.full_name)
        except ObjectNotFound:
            known = None
        made = deployment(offer, known, pool=pool)
        server = upkeep if upkeep and offer.tag == _UPKEEP else runner
        ids[offer.full_name] = UUID(str(server.add_deployment(made) if server else made.apply()))
    trained = ids[f"{pretrain_on_publish.name}/pretrain-on-publish"]
    for name in register_automations(client, FLOW_NAMES, trained):
        logger.info("automation: %s", name)
    skip_missed_runs(client, ids.values())
    return ids


def skip_missed_runs(client: SyncPrefectClient, deployment_ids: Iterable[UUID]) -> list[FlowRun]:
    """Of the runs that a schedule has missed while nothing was serving, keep the last one; the others.

    All of them would start at once, and each would find that the one beside it holds its lock.
    """
    missed: list[FlowRun] = []
    for deployment_id in deployment_ids:
        late = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
        missed += [run for run in late if run.auto_scheduled][1:]
    for run in missed:
        client.set_flow_run_state(run.id, Cancelled(message="missed while nothing was serving; a later one is run"))
    return missed


def make_pool(client: SyncPrefectClient, name: str) -> None:
    """The process work pool of this name, where there is none: workers and this program may start in any order."""
    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))
    except ObjectAlreadyExists:
        return


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve every deployment until the process is told to end; with --pool, register them for workers and end."""
    parser = argparse.ArgumentParser(prog="python -m flows.deployments", description=main.__doc__)
    parser.add_argument("--pool", default="", help="process work pool whose workers run the flows")
    pool = parser.parse_args(arguments).pool
    with get_client(sync_client=True) as client:
        if pool:
            make_pool(client, pool)
            register(client, None, pool=pool)
            print(f"registered {len(OFFERS)} deployments on the work pool {pool}", flush=True)
            return
        # a stop must not switch the operator's schedules off
        runner, upkeep = (_Runner(limit=limit, pause_on_shutdown=False) for limit in (_MAX_RUNS, 1))
        register(client, runner, upkeep)
    asyncio.run(_serve(runner, upkeep))


async def _serve(*runners: Runner) -> None:
    await asyncio.gather(*(runner.start() for runner in runners))


if __name__ == "__main__":
    main()
