"""What Prefect does by itself: crash a run that has fallen silent, train on what was published, tell about failures.

Each automation is made once, by its name. Afterwards it is the operator's: switched on or off, changed, and kept so.
Only a reference to a deployment or block that is no longer there is mended, because nothing could run with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectNotFound
from prefect.states import StateType

from flows.events import CORPUS_PUBLISHED, CORPUS_RESOURCE

HEARTBEAT_TIMEOUT_S = 90.0  # three heartbeats of infra.settings' 30 s
CRASH_SILENT_RUNS = "crash runs whose heartbeat has stopped"
PRETRAIN_ON_PUBLISH = "pretrain when a corpus is published"
TELL_ABOUT_FAILURES = "tell about failed runs"
NOTIFICATION_BLOCK = "tokenmill-failures"
NOTIFY_VARIABLE = "TOKENMILL_NOTIFY_URL"

_HEARTBEAT = "prefect.flow-run.heartbeat"
# named by state: after these no heartbeat is due
_ENDED = ("Completed", "Failed", "TimedOut", "Cancelled", "Crashed", "Suspended")
_FAILED = ("Failed", "TimedOut", "Crashed")
# what HTML, Markdown and the chat services read as mark-up; the last four call people
_DISARMED = {"&": "＆", "<": "‹", ">": "›", "[": "(", "]": ")", "`": "´", "*": "∗"} | {
    f"@{word}": f"@ {word}" for word in ("everyone", "here", "channel", "all")
}
_MESSAGE_CHARS = 1500  # chat services cut at about 2,000


def register_automations(client: SyncPrefectClient, flow_names: Sequence[str], pretrain_deployment: UUID) -> list[str]:
    """Make the automations that are not there yet; names of those that were made or mended.

    `flow_names` are our flows: on a server that is shared with others, theirs are left alone.
    """
    wanted = [_crash_silent_runs(flow_names), _pretrain_on_publish(pretrain_deployment)]
    if (block := _notification_block(client)) is not None:
        wanted.append(_tell_about_failures(flow_names, block))
    return [automation.name for automation in wanted if _ensure(client, automation)]


def _ensure(client: SyncPrefectClient, wanted: AutomationCore) -> bool:
    """Whether something had to be done."""
    known = client.read_automations_by_name(wanted.name)
    if not known:
        client.create_automation(wanted)
        return True
    changed = False
    for automation in known:
        mended = _with_living_references(client, automation, wanted)
        if mended is not None:
            client.update_automation(automation.id, mended)
            changed = True
    return changed


def _with_living_references(
    client: SyncPrefectClient, known: Automation, wanted: AutomationCore
) -> AutomationCore | None:
    """`known` with references to what is gone replaced by those of `wanted`; None where all are there."""
    replacement = wanted.actions[0]
    actions = list(known.actions)
    mended = False
    for index, action in enumerate(actions):
        if isinstance(action, RunDeployment) and isinstance(replacement, RunDeployment):
            gone = action.deployment_id is not None and _is_gone(client.read_deployment, action.deployment_id)
            update: dict[str, object] = {"deployment_id": replacement.deployment_id}
        elif isinstance(action, SendNotification) and isinstance(replacement, SendNotification):
            gone = _is_gone(client.read_block_document, action.block_document_id)
            update = {"block_document_id": replacement.block_document_id}
        else:
            continue
        if gone:
            actions[index] = action.model_copy(update=update)
            mended = True
    if not mended:
        return None
    return AutomationCore(
        name=known.name,
        description=known.description,
        enabled=known.enabled,
        trigger=known.trigger,
        actions=actions,
    )


def _is_gone(read: Callable[[UUID], object], id_: UUID) -> bool:
    try:
        read(id_)
    except ObjectNotFound:
        return True
    return False


def _of_our_flows(flow_names: Sequence[str]) -> ResourceSpecification:
    labels = {"prefect.resource.role": "flow", "prefect.resource.name": list(flow_names)}
    return ResourceSpecification.model_validate(labels)


def _crash_silent_runs(flow_names: Sequence[str]) -> AutomationCore:
    """Where runner and flow were both killed, nobody else says that the run is over.

    A run that is paused for an approval goes on sending heartbeats. One that has ended meanwhile stays as it ended:
    the server refuses to crash it.
    """
    return AutomationCore(
        name=CRASH_SILENT_RUNS,
        description=f"A run that has sent no heartbeat for {HEARTBEAT_TIMEOUT_S:.0f} s was killed.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _ENDED)},
            match=ResourceSpecification.model_validate({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=_of_our_flows(flow_names),
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(seconds=HEARTBEAT_TIMEOUT_S),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No heartbeat for {HEARTBEAT_TIMEOUT_S:.0f} s: the process was killed, or its machine is gone."
                " Retry goes on with what is finished.",
            )
        ],
    )


def _pretrain_on_publish(deployment_id: UUID) -> AutomationCore:
    return AutomationCore(
        name=PRETRAIN_ON_PUBLISH,
        description="Each published corpus version starts the deployment pretrain-on-publish, which trains when enough"
        " new tokens have come: edit that number there. Off until you switch it on.",
        enabled=False,
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={CORPUS_PUBLISHED},
            match=ResourceSpecification.model_validate({"prefect.resource.id": [f"{CORPUS_RESOURCE}.*"]}),
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected", deployment_id=deployment_id, parameters={"corpus": "{{ event.payload.corpus }}"}
            )
        ],
    )


def _plain(expression: str) -> str:
    """A template of `expression` as plain text, whatever a page or an error has put into it: no tag, link or mention.

    Prefect renders templates unescaped, and each receiver reads another mark-up.
    """
    replaced = "".join(f" | replace('{old}', '{new}')" for old, new in _DISARMED.items())
    return f"{{{{ {expression} | default('', true) | string | truncate({_MESSAGE_CHARS}, true){replaced} }}}}"


def _tell_about_failures(flow_names: Sequence[str], block_document_id: UUID) -> AutomationCore:
    state = "event.resource['prefect.state-name']"
    message = "event.resource['prefect.state-message']"
    return AutomationCore(
        name=TELL_ABOUT_FAILURES,
        description=f"A failed or crashed run is told to the notification block {NOTIFICATION_BLOCK}.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={f"prefect.flow-run.{state}" for state in _FAILED},
            match=ResourceSpecification.model_validate({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=_of_our_flows(flow_names),
            for_each={"prefect.resource.id"},
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block_document_id,
                subject=f"Tokenmill: {_plain('flow_run.name')} {_plain(state)}",
                body=f"Flow: {_plain('flow.name')}\n"
                f"Run: {_plain('flow_run.name')}\n"
                f"State: {_plain(state)}\n"
                f"Message: {_plain(message)}\n"
                "Page: {{ (flow_run | ui_url) or flow_run.id }}",
            )
        ],
    )


def _notification_block(client: SyncPrefectClient) -> UUID | None:
    """The block that failures are told to: of the address in the environment, else the operator's, else none.

    The address is a credential as a rule. It is stored as the block's secret, and neither shown nor logged.
    """
    if address := os.environ.get(NOTIFY_VARIABLE):
        block = CustomWebhookNotificationBlock(
            name="tokenmill",
            url="{{address}}",
            json_data={"subject": "{{subject}}", "text": "{{body}}"},
            secrets={"address": address},  # type: ignore[arg-type]
        )
        document_id: UUID = block.save(NOTIFICATION_BLOCK, overwrite=True)
        return document_id
    offset, page = 0, 100
    while documents := client.read_block_documents(offset=offset, limit=page, include_secrets=False):
        for document in documents:
            capabilities = document.block_schema.capabilities if document.block_schema else []
            if document.name == NOTIFICATION_BLOCK and "notify" in capabilities:
                return document.id
        offset += page
    return None
