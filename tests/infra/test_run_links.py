"""What the descriptions of runs lead to: a real history of a pipeline, its parts and a later run."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from infra.run_links import links_section, refresh_links, run_page, with_links
from tasks.store import Store

VIEW = "?workflowType=machine_learning"
DIGEST = "c0ffee" * 10 + "cafe"


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[MlflowClient, str]:
    folder = tmp_path_factory.mktemp("history")
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    return client, client.create_experiment("tokenmill", artifact_location=folder.as_uri())


def begun(history: tuple[MlflowClient, str], name: str, **tags: str) -> str:
    """A running run; `parent=` names its parent, and `corpus=` its corpus."""
    client, experiment = history
    names = {
        "parent": "mlflow.parentRunId",
        "flow": "tokenmill.flow",
        "corpus": "tokenmill.corpus",
        "model": "tokenmill.model",
        "prefect": "prefect.flow_run_url",
    }
    written = {names[key]: value for key, value in tags.items()}
    if "corpus" in tags:
        written["tokenmill.corpus_digest"] = DIGEST
    return str(client.create_run(experiment, run_name=name, tags=written).info.run_id)


def note(history: tuple[MlflowClient, str], run_id: str) -> str:
    return str(history[0].get_run(run_id).data.tags["mlflow.note.content"])


def test_addresses_open_the_view_for_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000/")
    store = Store.open(tmp_path)
    assert run_page(store, "1", "abc") == f"http://mlflow.example:5000/#/experiments/1/runs/abc{VIEW}"


def test_a_run_leads_to_all_that_belongs_to_it(history: tuple[MlflowClient, str]) -> None:
    client, experiment = history
    top = begun(history, "pipeline web", flow="pipeline", prefect="http://prefect.example/runs/flow-run/1")
    refresh = begun(history, "web@1", flow="refresh_corpus", corpus="web@1", parent=top)
    begun(history, "web@1 (no change)", flow="refresh_corpus", corpus="web@1")  # the card is the first one's
    other = begun(history, "pretrain web@1 smoke", flow="pretrain", corpus="web@1", parent=top, model="web-smoke@2")
    runs = f"#/experiments/{experiment}/runs"
    card = f"[card of web@1]({runs}/{refresh}/artifacts/corpus_card.md{VIEW})"
    model = f"[model web-smoke@2](#/models/web-smoke/versions/2{VIEW})"
    parent = f"[parent pipeline]({runs}/{top}{VIEW})"
    assert links_section(client, other) == f"**Links**: {card}, {model}, {parent}"
    assert links_section(client, refresh) == f"**Links**: {card}, {parent}"
    client.set_terminated(refresh)
    client.set_terminated(other, "KILLED")
    assert links_section(client, top) == (
        "**Links**: [Prefect flow run](http://prefect.example/runs/flow-run/1)\n\n"
        f"**Children**: [web@1]({runs}/{refresh}{VIEW}) finished, [pretrain web@1 smoke]({runs}/{other}{VIEW}) killed"
    )


@pytest.mark.parametrize("tags", [{}, {"prefect": "http://prefect.example/runs/flow-run/2"}])
def test_the_links_are_renewed_and_the_text_below_them_stays(
    history: tuple[MlflowClient, str], tags: dict[str, str]
) -> None:
    client, experiment = history
    parent = begun(history, "pipeline", **tags)
    links = [f"**Links**: [Prefect flow run]({address})" for address in tags.values()]
    client.set_tag(parent, "mlflow.note.content", with_links(client, parent, "About *it*.\n\n---\n\nMore."))
    assert note(history, parent) == "\n\n---\n\n".join([*links, "About *it*.\n\n---\n\nMore."])
    child = begun(history, "a [name](evil) <b>", parent=parent)
    address = f"#/experiments/{experiment}/runs/{child}{VIEW}"
    for status in ("running", "finished", "finished"):
        refresh_links(client, parent)
        section = "\n\n".join([*links, rf"**Children**: [a \[name\](evil) &lt;b&gt;]({address}) {status}"])
        assert note(history, parent) == f"{section}\n\n---\n\nAbout *it*.\n\n---\n\nMore."
        client.set_terminated(child)
    client.set_tag(parent, "mlflow.note.content", with_links(client, parent, "Other text."))
    assert note(history, parent) == f"{section}\n\n---\n\nOther text."


def test_a_run_alone_has_no_links(history: tuple[MlflowClient, str]) -> None:
    run = begun(history, "alone")
    refresh_links(history[0], run)
    assert "mlflow.note.content" not in history[0].get_run(run).data.tags
    assert links_section(history[0], run) == "" and with_links(history[0], run, "Text.") == "Text."
