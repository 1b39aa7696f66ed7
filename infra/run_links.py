"""Where runs and models are shown in MLflow's pages, and the links by which one leads to the others.

MLflow opens in its view for agents unless the address says otherwise, inside the part behind the `#`.

Links in a description are relative to the page that shows it: they hold whatever host and port the server is reached
by, today or next year. What leads there from elsewhere (Prefect, a terminal) is a whole address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from infra.settings import mlflow_ui
from tasks.markdown import markdown_cell
from tasks.store import Store

if TYPE_CHECKING:  # addresses are printed by programs that have no other use for MLflow and its 2.7 s of import
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

CARD_FILE = "corpus_card.md"
"""The artifact of a refresh that describes the corpus version."""
NOTE_TAG = "mlflow.note.content"
"""MLflow's tag for the description of a run."""
_VIEW = "?workflowType=machine_learning"
_HEADING, _CHILDREN = "**Links**: ", "**Children**: "
_RULE = "\n\n---\n\n"
"""Between the links and what stands below them."""


def run_page(store: Store, experiment_id: str, run_id: str) -> str:
    """Address of the page of a run."""
    return f"{mlflow_ui(store)}/{_run(experiment_id, run_id)}"


def links_section(mlflow_client: MlflowClient, run_id: str) -> str:
    """What belongs to a run, as the history has it now, in one or two lines of Markdown; empty where there is nothing.

    Its Prefect flow run, the card of its corpus, its model, its parent, and each child with its status. Two to four
    calls to the server.
    """
    run = mlflow_client.get_run(run_id)
    tags = run.data.tags
    links = []
    if address := tags.get("prefect.flow_run_url"):
        links.append(f"[Prefect flow run]({address})")
    if card := _card_run(mlflow_client, run):
        corpus = markdown_cell(tags["tokenmill.corpus"])
        page = _run(card.info.experiment_id, card.info.run_id, f"/artifacts/{CARD_FILE}")
        links.append(f"[card of {corpus}]({page})")
    if model := tags.get("tokenmill.model"):
        links.append(f"[model {markdown_cell(model)}]({_model(model)})")
    if parent := tags.get("mlflow.parentRunId"):
        flow = mlflow_client.get_run(parent).data.tags.get("tokenmill.flow", "run")  # unlike its name, this stays
        links.append(f"[parent {markdown_cell(flow)}]({_run(run.info.experiment_id, parent)})")
    found = mlflow_client.search_runs(
        [run.info.experiment_id],
        filter_string=f"tags.`mlflow.parentRunId` = '{run_id}'",
        order_by=["attributes.start_time ASC"],
    )
    children = [
        f"[{markdown_cell(str(child.info.run_name))}]({_run(child.info.experiment_id, child.info.run_id)})"
        f" {child.info.status.lower()}"
        for child in found
    ]
    lines = [(_HEADING, links), (_CHILDREN, children)]
    return "\n\n".join(heading + ", ".join(entries) for heading, entries in lines if entries)


def with_links(mlflow_client: MlflowClient, run_id: str, markdown: str) -> str:
    """A run's description, beginning with its links: MLflow's page folds away all but the first five lines."""
    links = links_section(mlflow_client, run_id)
    return f"{links}{_RULE}{_own(markdown)}" if links else _own(markdown)


def refresh_links(mlflow_client: MlflowClient, run_id: str) -> None:
    """Bring the links of a run's description up to date; what stands below them stays.

    To be called for a run when it begins, and for its parent when it begins, is renamed, or ends.
    """
    before = mlflow_client.get_run(run_id).data.tags.get(NOTE_TAG, "")
    now = with_links(mlflow_client, run_id, before)
    if now != before:
        mlflow_client.set_tag(run_id, NOTE_TAG, now)


def _run(experiment_id: str, run_id: str, tab: str = "") -> str:
    return f"#/experiments/{experiment_id}/runs/{run_id}{tab}{_VIEW}"


def _model(reference: str) -> str:
    name, _, version = reference.partition("@")
    return f"#/models/{quote(name, safe='')}/versions/{version}{_VIEW}"


def _own(markdown: str) -> str:
    """A description without its links."""
    if markdown.startswith((_HEADING, _CHILDREN)):
        return markdown.partition(_RULE)[2]
    return markdown


def _card_run(mlflow_client: MlflowClient, run: Run) -> Run | None:
    """The run that published the run's corpus version: the first refresh that recorded it."""
    tags = run.data.tags
    if "tokenmill.corpus" not in tags:
        return None
    reference, digest = tags["tokenmill.corpus"], tags["tokenmill.corpus_digest"]
    found = mlflow_client.search_runs(
        [run.info.experiment_id],
        filter_string=(
            f"tags.`tokenmill.flow` = 'refresh_corpus' and tags.`tokenmill.corpus` = '{reference}'"
            f" and tags.`tokenmill.corpus_digest` = '{digest}'"
        ),
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return found[0] if found else None
