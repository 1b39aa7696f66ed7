"""Pretraining as the answer to a published corpus version: what the event says, and what the operator has set.

Prefect replaces a deployment's parameters as a whole, one top-level name at a time. So the corpus is one of its own,
the only one that the automation (flows/automations.py) sets; all others are those of the deployment, where an operator
edits them.
"""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.parameters import VERSION_NAME, Consent, PretrainParameters, Training
from flows.pretrain import pretrain

MIN_NEW_TOKENS = 1_000_000  # about 4 MB of new text: less would hardly change a model


@flow(name="pretrain_on_publish", flow_run_name="pretrain {corpus} {training.profile}", persist_result=False)
def pretrain_on_publish(
    corpus: Annotated[str, Field(pattern=VERSION_NAME, title="Corpus")] = "docs",
    training: Annotated[Training, Field(title="Training")] = Training(),  # noqa: B008 - frozen
    workers: Annotated[int, Field(ge=1, le=1024, title="Training workers")] = 1,
    consent: Annotated[Consent, Field(title="Consent")] = Consent(min_new_tokens=MIN_NEW_TOKENS),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """A corpus version that was just published to a registered model version, where it brings enough new tokens.

    Args:
        corpus: Set by the event to name@version.
        training: Network and training.
        workers: Training processes, one GPU each if any.
        consent: When training starts.
    """
    parameters = PretrainParameters(corpus=corpus, training=training, workers=workers, consent=consent)
    result: dict[str, Any] = pretrain.fn(parameters)  # in this very run: one entry in the list of runs, not two
    return result
