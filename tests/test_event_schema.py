"""docs/event.schema.json describes the events that the daemon logs, and nothing else."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from event_record import record
from event_schema import SCHEMA, STRICT, faults
from hypothesis import given, settings
from hypothesis import strategies as st

from killsnoopd import event, names
from killsnoopd.events import fields
from killsnoopd.events.processes import Identity

TOP = Path(__file__).parent.parent
GOLDEN = json.loads((TOP / "tests/golden/events.json").read_text())


def test_it_is_up_to_date():
    """`make event-schema` makes it from docs/reference.md and the code."""
    made = subprocess.run([sys.executable, TOP / "scripts/event_schema.py"], capture_output=True, text=True, check=True)
    assert (TOP / "docs/event.schema.json").read_text() == made.stdout, "make event-schema"


def test_it_is_a_schema():
    """Of the draft that it names."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_events(name):
    """Each matches, and has no field that is not in it."""
    assert faults(GOLDEN[name]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"KILLSNOOP_EVENT": "birth"}, {"KILLSNOOP_PID": "x"}, {"KILLSNOOP_PID": 812}, {"KILLSNOOP_PID": None},
        {"KILLSNOOP_TIMESTAMP": "yesterday"}, {"KILLSNOOP_COMM": "a\nb"}, {"KILLSNOOP_SIGNAL": "SIGNOTHING"},
        {"KILLSNOOP_ORIGIN": "moon"}, {"KILLSNOOP_NEW": "1"}, {"KILLSNOOP_POD": "web"}, {"KILLSNOOP_HANDLED": "0"},
        {"KILLSNOOP_TARGET_CONTAINER": "x"}, {"KILLSNOOP_OUTCOME": None}, {"KILLSNOOP_TCOMM": None},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_event(changes):
    """A delivery with a wrong, a missing (None) or an unknown field does not match."""
    changed = {name: value for name, value in (GOLDEN["delivery"] | changes).items() if value is not None}
    assert faults(changed)


def test_events_of_later_releases():
    """Fields that a minor release may add, and those of journald, do not break a reader that uses the schema."""
    later = GOLDEN["delivery"] | {"KILLSNOOP_NEW": "1", "_HOSTNAME": "web1", "__REALTIME_TIMESTAMP": "1"}
    assert not list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(later))
    assert STRICT.is_valid(GOLDEN["delivery"] | {"_HOSTNAME": "web1"})


COMM = st.binary(min_size=1, max_size=15)
U32 = st.integers(0, 2**32 - 1)


@settings(max_examples=400, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "kind": st.integers(0, 3), "origin": st.integers(0, len(names.DEATH_ORIGINS) - 1),
            "outcome": st.integers(0, len(names.OUTCOMES) - 1), "call": st.integers(0, 5), "flags": st.integers(0, 63),
            "comm": COMM, "tcomm": COMM, "thread_comm": COMM, "parent_comm": COMM, "trigger_comm": COMM, "tty": COMM,
            "sig": st.integers(-(2**31), 2**31 - 1), "code": st.integers(-(2**31), 2**31 - 1), "res": st.integers(-200, 0),
            "status": st.integers(0, 255), "elapsed_ns": st.integers(0, 2**63), "trigger_pid": U32,
            "pid": st.integers(1, 2**22), "tpid": st.integers(1, 2**22), "uid": U32, "loginuid": U32, "target_arg": st.integers(-(2**31), 2**31 - 1),
        }
    ),
    st.binary(max_size=60),
)  # fmt: skip
def test_any_event(changes, path):
    """Whatever the names and the numbers in the record are, as long as the probe can have written it."""
    if changes["kind"] == 0:  # a call has no target, and is always one of the six
        changes |= {"origin": 0, "tpid": 0}
    elif changes["kind"] == 1:
        changes["origin"] %= len(names.ORIGINS)
    try:
        decoded = event.decode(record(**changes))
    except ValueError:
        return
    identity = Identity(exe=names.text(path), machine=names.text(path), target_machine=names.text(path))
    assert faults(fields.fields(decoded, identity, 1_700_000_000 * 10**9)) == []
    nobody = dataclasses.replace(decoded, sender=None)
    if nobody.kind != "call":
        assert faults(fields.fields(nobody, Identity(), 1_700_000_000 * 10**9)) == []
