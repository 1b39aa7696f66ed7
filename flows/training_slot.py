"""One training at a time, whatever deployment or command asked for it: the queue and the slot.

The slot is Prefect's global concurrency limit `training`, which an operator sees, and may resize, on Prefect's page.
Prefect's own `concurrency("training", strict=True)` is not enough here: a wait in it shows nothing, waiters overtake
each other, a server that was away for a minute would end the training that holds the slot, and a server which forgets
its leases (the default keeps them in memory) or does not expire them (the one that lives as long as a command) would
leave the slot taken for ever.

So each flow run that wants the slot takes its place in the store first: `locks/training-<flow run>.json` says since
when it waits and with which lease it holds the slot, and the lock of the same name, which the system releases however
a process ends, says that it is alive. From the places follow the order, the holder's name, and what a killed holder
left. Runs that train on another store of the same server have no place here; only their leases keep them apart.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Running

from flows.console import console
from infra.settings import current_store, served_addresses
from tasks.atomic import locked, write_json
from tasks.store import InUseError, Store

LIMIT = "training"
WAITING_STATE, TRAINING_STATE = "AwaitingTraining", "Training"
LEASE_S = 90.0
"""A holder that dies where nobody can see it loses its slot after so long, and the 10 s between two of the server's
looks. The least that Prefect takes is 60; three renewals may fail before a living holder loses it."""
RENEW_S = 20.0
_POLL_S = 2.0


@dataclass(frozen=True)
class Place:
    """One flow run that waits for the slot or holds it."""

    flow_run_id: str
    name: str
    since: float  # seconds since 1970
    lease_id: str = ""  # of the holder's slot

    @property
    def lock(self) -> str:
        return f"{_PREFIX}{self.flow_run_id}"


_PREFIX = "training-"


@contextmanager
def training_slot() -> Iterator[None]:
    """Hold the slot while the block runs; must be called in a flow, in a thread that may be interrupted.

    While another run holds it the flow run's state is named AwaitingTraining and says for whom it waits, then Training.
    Waiting ends with an interruption, too.
    """
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None, "the slot is held by a flow run"
    store = current_store()
    place = Place(str(context.flow_run.id), context.flow_run.name, time.time())
    with store.lock(place.lock), get_client(sync_client=True) as client:
        slot = _Slot(client, store, place)
        try:
            slot.create_limit()
            slot.wait()
            with slot.renewed():
                yield
            slot.show(Running())
        finally:
            slot.leave()


@contextmanager
def turn_of(store: Store, lock: str) -> Iterator[None]:
    """Hold `lock`, the one of a training run; waits, and says so, while another flow does the very same training."""
    with ExitStack() as held:
        shown = False
        while True:
            try:
                held.enter_context(store.lock(lock))
                break
            except InUseError as error:
                if not shown:
                    shown = True
                    _show_waiting_for(f"another run does the same training: waits for it ({error})")
                time.sleep(_POLL_S)
        yield


def _show_waiting_for(message: str) -> None:
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None, "a training is a flow run"
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(context.flow_run.id, Running(name=WAITING_STATE, message=message))
    get_run_logger().info(message)
    console.say(message)


def places(store: Store) -> tuple[list[Place], list[Place]]:
    """The runs of this store that wait for the slot or hold it: the living, first come first, and the dead."""
    living, dead = [], []
    for file in (store.root / "locks").glob(f"{_PREFIX}*.json"):
        try:
            place = Place(**json.loads(file.read_bytes()))
        except FileNotFoundError:  # it has just left
            continue
        (living if store.is_locked(place.lock) else dead).append(place)
    return sorted(living, key=lambda place: (place.since, place.flow_run_id)), dead


def free_dead_slots(store: Store) -> list[Place]:
    """Give back the slots of runs that were killed, at once rather than when their leases end; those runs."""
    with get_client(sync_client=True) as client, _queue(store):
        return _free_dead(client, store, _is_own_server(store))


@contextmanager
def _queue(store: Store) -> Iterator[None]:
    """Whoever takes or gives back a slot does it alone: between a look at the places and what follows from it."""
    with locked(store.root / "locks" / f"{LIMIT}.lock"):
        yield


def _file(store: Store, place: Place) -> Path:
    return store.root / "locks" / f"{place.lock}.json"


def _free_dead(client: SyncPrefectClient, store: Store, is_own_server: bool) -> list[Place]:
    living, dead = places(store)
    for place in dead:
        if place.lease_id:
            client.release_concurrency_slots_with_lease(UUID(place.lease_id))
        _file(store, place).unlink(missing_ok=True)
    # A server that was restarted has lost its leases and still counts their slots. Where all trainings are on this
    # store, nobody can hold one without a place.
    if is_own_server and not any(place.lease_id for place in living) and (counted := _counted_slots(client)):
        client.release_concurrency_slots([LIMIT], counted, occupancy_seconds=1.0)
    return dead


def _counted_slots(client: SyncPrefectClient) -> int:
    try:
        return client.read_global_concurrency_limit_by_name(LIMIT).active_slots
    except ObjectNotFound:  # nothing was ever trained
        return 0


def _is_own_server(store: Store) -> bool:
    """Whether all trainings that the Prefect server knows are on this store: one in this process, or `tokenmill up`."""
    api = os.environ.get("PREFECT_API_URL", "")
    return not api or api == f"{served_addresses(store).get('prefect')}/api"


class _Slot:
    """One run's way through the queue."""

    def __init__(self, client: SyncPrefectClient, store: Store, place: Place) -> None:
        self._client, self._store, self._place = client, store, place
        self._is_own_server = _is_own_server(store)
        self._lock = threading.Lock()  # the renewing thread may take a new lease while the flow's thread leaves
        self._shown = ""
        write_json(_file(store, place), asdict(place))

    def create_limit(self) -> None:
        """The limit of one slot, where there is none; one that is there stays as the operator has set it."""
        try:
            self._client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=1))
        except ObjectAlreadyExists:
            return

    def wait(self) -> None:
        while True:
            with _queue(self._store):
                _free_dead(self._client, self._store, self._is_own_server)
                ahead = [place for place in places(self._store)[0] if place.since < self._place.since]
                if not any(not place.lease_id for place in ahead) and self._take(self._client):
                    break
            self._show_waiting(ahead)
            time.sleep(_POLL_S)
        self.show(Running(name=TRAINING_STATE, message=f"holds the slot {LIMIT!r}"))

    def _take(self, client: SyncPrefectClient) -> bool:
        """Whether there was a slot; call inside `_queue`."""
        holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(self._place.flow_run_id))
        try:
            answer = client.increment_concurrency_slots_with_lease([LIMIT], 1, "concurrency", LEASE_S, holder)
        except httpx.HTTPStatusError as error:
            # 423: taken; 422: the operator has set the limit to 0, to let nothing train for a while
            if error.response.status_code in {HTTPStatus.LOCKED, HTTPStatus.UNPROCESSABLE_ENTITY}:
                return False
            raise
        self._place = Place(**asdict(self._place) | {"lease_id": answer.json()["lease_id"]})
        write_json(_file(self._store, self._place), asdict(self._place))
        return True

    def _show_waiting(self, ahead: list[Place]) -> None:
        names = [f"{place.name!r}{' (training)' if place.lease_id else ' (waiting)'}" for place in ahead]
        whom = ", ".join(names) or (
            f"a slot of the limit {LIMIT!r}, which is 0 or held by a run of another store; see Prefect's page of"
            " concurrency limits"
        )
        message = f"one training at a time: waits for {whom}"
        if message != self._shown:
            self._shown = message
            self.show(Running(name=WAITING_STATE, message=message))
            get_run_logger().info(message)
            console.say(message)

    def show(self, state: object) -> None:
        self._client.set_flow_run_state(UUID(self._place.flow_run_id), state)  # type: ignore[arg-type]

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """The lease renewed while the block runs."""
        left = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(left,), name="training slot", daemon=True)
        thread.start()
        try:
            yield
        finally:
            left.set()

    def _renew_until(self, left: threading.Event) -> None:
        logger = get_logger("training_slot")
        with get_client(sync_client=True) as client:
            while not left.wait(RENEW_S):
                try:
                    client.renew_concurrency_lease(UUID(self._place.lease_id), LEASE_S)
                except httpx.HTTPStatusError as error:
                    if error.response.status_code != HTTPStatus.GONE:
                        logger.warning("the training slot's lease was not renewed: %s", error)
                    elif not self._take_again(client, left):
                        logger.warning(
                            "the server was away, and another training has the slot now: this one goes on beside it"
                        )
                except httpx.HTTPError as error:  # the server is away; the next time, then
                    logger.warning("the training slot's lease was not renewed: %s", error)

    def _take_again(self, client: SyncPrefectClient, left: threading.Event) -> bool:
        """A new lease where the server has lost ours; hours of work are not given up for that."""
        with self._lock, _queue(self._store):
            if left.is_set():
                return True
            others = [place for place in places(self._store)[0] if place.lease_id and place != self._place]
            if self._is_own_server and not others:  # what is counted there is the slot we hold
                client.release_concurrency_slots([LIMIT], 1, occupancy_seconds=1.0)
            return self._take(client)

    def leave(self) -> None:
        """Give back what this run holds. A server that is away takes it back itself when the lease ends."""
        with self._lock, _queue(self._store):
            if self._place.lease_id:
                try:
                    self._client.release_concurrency_slots_with_lease(UUID(self._place.lease_id))
                except httpx.HTTPError as error:
                    ends = datetime.fromtimestamp(time.time() + LEASE_S, UTC).strftime("%H:%M:%S UTC")
                    get_logger("training_slot").warning(
                        "the training slot was not given back (%s): it is free at %s", error, ends
                    )
            _file(self._store, self._place).unlink(missing_ok=True)
