"""What an operator reads when a flow run has failed: where, why, what is kept, and how to go on from there."""

from __future__ import annotations

import traceback

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

from flows.user_error import causes, user_line
from tasks.markdown import markdown_cell, markdown_code
from tasks.ports import ShardError

_TRACEBACK_LINES = 12
_LINE_CHARS = 600


def _root(error: BaseException) -> BaseException:
    """The first error: what the others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class DivergedError(ValueError):
    """A training that diverged, with the `command` that goes on; empty where other settings alone help."""

    def __init__(self, line: str, command: str = "") -> None:
        super().__init__(f"{line}. To go on: {command}" if command else line)
        self.command = command


def failure_markdown(error: BaseException, stage: str, retry: str, can_retry_run: bool) -> str:
    """The text of the artifact. `retry` is the command that goes on; `can_retry_run`: Prefect shows a button for it."""
    shard = next((each for each in causes(error) if isinstance(each, ShardError)), None)
    where = f"stage **{markdown_cell(shard.stage if shard else stage or 'start')}**"
    if shard:
        where += f", shard {shard.shard}"
    root = _root(error)
    line = user_line(error) or f"{type(root).__name__}: {root}"
    tail = "".join(traceback.format_exception(root)).splitlines()[-_TRACEBACK_LINES:]
    return "\n\n".join(
        [
            f"Failed in {where}:",
            f"**{markdown_cell(line[:_LINE_CHARS])}**",
            "**Kept**: every stage that is complete, the finished shards of this one, and the last checkpoint of a"
            " training. They are found again by what they were made from, so the next run does only the rest.",
            *_way_on(error, retry, can_retry_run),
            "The end of the first error's traceback:",
            markdown_code(each[:_LINE_CHARS] for each in tail),
        ]
    )


def _way_on(error: BaseException, retry: str, can_retry_run: bool) -> list[str]:
    """Paragraphs. The same once more helps against what broke, and not against what was refused."""
    diverged = next((each for each in causes(error) if isinstance(each, DivergedError)), None)
    if diverged is not None and diverged.command:
        return ["**To go on**, leave out what made it diverge:", markdown_code([diverged.command])]
    if diverged is not None or type(error) is ValueError:  # its subclasses are of what may be otherwise by then
        refused = "**To go on**, first do what that line says: with nothing changed it ends in the same way"
        return [f"{refused}. The run was", markdown_code([retry])] if retry else [refused]
    again = (["press *Retry* on this page"] if can_retry_run else []) + ["run" if retry else "run it again"]
    return [f"**To go on**, {', or '.join(again)}", *([markdown_code([retry])] if retry else [])]


def show_failure(error: BaseException, stage: str, retry: str) -> None:
    """The artifact `failure` of the flow run."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    markdown = failure_markdown(error, stage, retry, can_retry_run=context.flow_run.deployment_id is not None)
    try:
        create_markdown_artifact(markdown=markdown, key="failure", description="What failed, and how to go on")
    except Exception:  # the server is away; the error itself must still reach the caller
        get_run_logger().warning("the failure could not be shown in Prefect", exc_info=True)
