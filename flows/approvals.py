"""Asking a person before something is spent or changed: a form on the flow run's page in Prefect."""

from __future__ import annotations

import os
import re

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

TIMEOUT_S = 24 * 60 * 60
"""A day: the form of a run that a schedule or an event started is seen on the next working morning."""
NOT_APPROVED = "NotApproved"
"""Name of the state in which a run ends that was not approved."""
_POLL_S = 2


class NotApproved(Exception):
    """The person who was asked said no, or nobody answered in time."""


class Approval(RunInput):
    """The form."""

    approve: bool = Field(False, title="Approve", description="Go on. Left off: this run ends, and nothing is done.")
    note: str = Field("", title="Note", max_length=500, description="Kept with the run.")


def check_approvable() -> None:
    """ValueError where the form could not be answered: no server shows it."""
    if not os.environ.get("PREFECT_API_URL"):
        raise ValueError(
            "an approval is given on Prefect's page, and no server shows it: use `tokenmill up` and run this again, or"
            " leave the approval out"
        )


def ask(title: str, markdown: str) -> str:
    """Pause the flow run until a person has answered its form, which shows `markdown`; the note they left.

    Raises NotApproved where the answer is no, and where there is none after TIMEOUT_S.
    """
    key = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    form = Approval.with_initial_data(description=f"## {title}\n\n{markdown}")
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=TIMEOUT_S, poll_interval=_POLL_S, key=key)
    except FlowPauseTimeout as error:
        raise NotApproved(f"{title}: nobody answered within {TIMEOUT_S // 3600} hours") from error
    note = f": {answer.note}" if answer.note else ""
    if not answer.approve:
        raise NotApproved(f"{title}: refused{note}")
    return answer.note
