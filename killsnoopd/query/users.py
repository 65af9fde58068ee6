"""Names of users, where this machine knows them."""

import pwd
from collections.abc import Callable
from functools import lru_cache

from killsnoopd.query.records import Record

Named = Callable[[str], str]
"""From a uid to the user's name, or to the uid itself."""


@lru_cache(1024)
def name(uid: str) -> str:
    """The name of a user of this machine; the uid if it has none."""
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (ValueError, KeyError, OverflowError):
        return uid


def number(uid: str) -> str:
    """The uid: of a user of another machine, or where numbers were asked for."""
    return uid


def shown(record: Record, field: str, named: Named) -> str:
    """The user in a field of an event. A container has users of its own, whose names this machine does not know."""
    uid = record.get(f"KILLSNOOP_{field}", "")
    return uid if record.get("KILLSNOOP_CONTAINER") or record.get("KILLSNOOP_MACHINE") else named(uid)
