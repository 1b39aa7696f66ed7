"""The record of a takedown: who, when, why, what was found, what was done. Never a text.

audit/<id>.intent.json   what has been begun and not ended; whoever takes down next ends it first
audit/<id>.json          what was done; written once
"""

from __future__ import annotations

import getpass
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.atomic import write_json
from tasks.store import Store

_INTENT = ".intent.json"


def now_utc() -> str:
    """`YYYY-MM-DDTHH:MM:SSZ`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def new_audit_id() -> str:
    """Sorts by time; no two are equal."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"


def operator() -> str:
    """The operating system's name for who runs this; of a triggered run, the account of its worker."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, in a container
        return "unknown"


def write_intent(store: Store, audit: str, intent: Mapping[str, Any]) -> None:
    """Say what is begun, before anything is changed; again where more is known."""
    store.audit.mkdir(exist_ok=True)
    write_json(store.audit / f"{audit}{_INTENT}", intent)


def intents(store: Store) -> dict[str, dict[str, Any]]:
    """What was begun and not ended, by audit id, the earliest first."""
    found = {}
    for file in sorted(store.audit.glob(f"*{_INTENT}")):
        audit = file.name.removesuffix(_INTENT)
        if _record(store, audit).exists():  # killed just before the intent was removed
            continue
        found[audit] = json.loads(file.read_bytes())
    return found


def write_audit(store: Store, audit: str, record: Mapping[str, Any]) -> Path:
    """Write the record, and end the intent. A record that is there already stays as it is."""
    file = _record(store, audit)
    if not file.exists():  # ids are not repeated, and one takedown runs at a time
        write_json(file, record)
    (store.audit / f"{audit}{_INTENT}").unlink(missing_ok=True)
    return file


def _record(store: Store, audit: str) -> Path:
    return store.audit / f"{audit}.json"
