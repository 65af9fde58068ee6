#!/usr/bin/env python3
"""Prints docs/event.schema.json (JSON Schema, 2020-12): fields and meanings from docs/reference.md, forms from here."""

import json
import re
import sys
from pathlib import Path

TOP = Path(__file__).parent.parent
sys.path.insert(0, str(TOP))

from killsnoopd import names  # noqa: E402
from killsnoopd.event import KINDS, OOM_SCOPES  # noqa: E402
from killsnoopd.events import fields  # noqa: E402

NUMBER, SIGNED, MS = r"^(0|[1-9][0-9]*)$", r"^(0|-?[1-9][0-9]*)$", r"^[0-9]+\.[0-9]{3}$"
PRINTABLE = r"^[^\u0000-\u001f\u007f]*$"
COMM = {"pattern": PRINTABLE, "maxLength": 60}  # 15 bytes, each of which may be escaped
UNIT = {"pattern": r"^[0-9A-Za-z_:.\\@-]+\.[a-z]+$"}
CONTAINER, POD_UID = (
    {"pattern": "^[0-9a-f]{64}$"},
    {"pattern": "^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})$"},
)
LABEL, POD = {"pattern": "^[a-z0-9-]{1,63}$"}, {"pattern": "^[a-z0-9.-]{1,253}$"}
FLAG = {"const": "1"}

FORMS = {
    "MESSAGE": {"pattern": r"^[^\n]+$"},
    "PRIORITY": {"enum": ["4", "5", "6", "7"]},
    "SYSLOG_IDENTIFIER": {"const": "killsnoopd"},
    "MESSAGE_ID": {"enum": [fields.SENT, fields.FAILED, fields.DIED, fields.EXITED]},
    "KILLSNOOP_EVENT": {"enum": list(KINDS)},
    "KILLSNOOP_TIMESTAMP": {"pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"},
    "KILLSNOOP_SIGNAL": {"enum": list(names.SIGNALS)},
    "KILLSNOOP_CODE_NAME": {"pattern": "^[A-Z]+_[A-Z_]+$"},
    "KILLSNOOP_RES": {"pattern": "^(0|-[1-9][0-9]*)$"},
    "KILLSNOOP_RESULT": {"pattern": "^(success|E[A-Z0-9]+|[1-9][0-9]*)$"},
    "KILLSNOOP_OUTCOME": {"enum": [*names.OUTCOMES, "died", "exited"]},
    "KILLSNOOP_ORIGIN": {"enum": list(names.DEATH_ORIGINS)},
    "KILLSNOOP_SYSCALL": {"enum": list(names.SYSCALLS)},
    "KILLSNOOP_EXE": {"pattern": PRINTABLE},
    "KILLSNOOP_CMDLINE": {"pattern": PRINTABLE},
    "KILLSNOOP_ANCESTORS": {"pattern": r"^[^ \[\]]*\[[0-9]+\]( [^ \[\]]*\[[0-9]+\])*( \.\.\.)?$"},
    "KILLSNOOP_TTY": COMM,
    "KILLSNOOP_MACHINE": {"pattern": PRINTABLE},
    "KILLSNOOP_OOM_SCOPE": {"enum": list(OOM_SCOPES[1:])},
    "KILLSNOOP_OOM_CGROUP": {"pattern": PRINTABLE},
    "OBJECT_SYSTEMD_UNIT": UNIT,
    **{f"KILLSNOOP_{name}": COMM for name in ("COMM", "THREAD_COMM", "PARENT_COMM", "TCOMM", "TRIGGER_COMM")},
    **{f"KILLSNOOP_{name}": FLAG for name in ("COMPAT", "HANDLED", "ORIGIN_INFERRED")},
    **{f"KILLSNOOP_{name}": {"pattern": MS} for name in ("ELAPSED_MS", "ESCALATION_MS")},
    **{f"KILLSNOOP_{name}": {"pattern": SIGNED} for name in ("SIG", "CODE", "TPID", "TARGET_ARG", "OOM_SCORE_ADJ")},
    "KILLSNOOP_UNIT": UNIT,
    "KILLSNOOP_USER_UNIT": UNIT,
    "KILLSNOOP_CONTAINER": CONTAINER,
    "KILLSNOOP_CONTAINER_NAME": LABEL,
    "KILLSNOOP_POD": POD,
    "KILLSNOOP_POD_NAMESPACE": LABEL,
    "KILLSNOOP_POD_UID": POD_UID,
}
NUMBERS = (
    "ERRNO KILLSNOOP_PID KILLSNOOP_TID KILLSNOOP_NS_PID KILLSNOOP_UID KILLSNOOP_LOGINUID KILLSNOOP_SESSIONID "
    "KILLSNOOP_PPID KILLSNOOP_TARGET_UID KILLSNOOP_TARGET_NS_PID KILLSNOOP_TRIGGER_PID KILLSNOOP_EXIT_STATUS "
    "KILLSNOOP_OOM_ANON_BYTES KILLSNOOP_OOM_FILE_BYTES KILLSNOOP_OOM_SHMEM_BYTES KILLSNOOP_OOM_PAGE_TABLES_BYTES".split()
)
ALWAYS = (
    "MESSAGE PRIORITY SYSLOG_IDENTIFIER MESSAGE_ID KILLSNOOP_EVENT KILLSNOOP_TIMESTAMP KILLSNOOP_SIGNAL KILLSNOOP_SIG "
    "KILLSNOOP_TPID KILLSNOOP_RES KILLSNOOP_RESULT KILLSNOOP_ORIGIN".split()
)
OF_A_TARGET = ["KILLSNOOP_TCOMM", "KILLSNOOP_TARGET_UID", "KILLSNOOP_OUTCOME"]
BY_KIND = {
    "call": ["KILLSNOOP_PID", "KILLSNOOP_COMM", "KILLSNOOP_SYSCALL", "KILLSNOOP_TARGET_ARG"],
    "delivery": ["KILLSNOOP_PID", "KILLSNOOP_COMM", "KILLSNOOP_CODE", *OF_A_TARGET],
    "death": OF_A_TARGET,
    "exit": ["KILLSNOOP_EXIT_STATUS", *OF_A_TARGET],
}
TOGETHER = (
    ("KILLSNOOP_PID", "KILLSNOOP_COMM"),
    ("KILLSNOOP_TID", "KILLSNOOP_UID"),
    ("KILLSNOOP_TRIGGER_PID", "KILLSNOOP_TRIGGER_COMM"),
    ("KILLSNOOP_POD", "KILLSNOOP_POD_NAMESPACE"),
    ("KILLSNOOP_TARGET_POD", "KILLSNOOP_TARGET_POD_NAMESPACE"),
    ("KILLSNOOP_TARGET_UNIT", "OBJECT_SYSTEMD_UNIT"),
)  # fmt: skip


def form(name):
    """The form of a field's value; that of a target's is that of a sender's."""
    if name in NUMBERS:
        return {"pattern": NUMBER}
    return FORMS[name] if name in FORMS else FORMS[name.replace("_TARGET_", "_")]


def text(markdown):
    """Without marks and links."""
    return re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", markdown).replace("`", "").replace("\\|", "|").strip()


def documented():
    """{field: meaning}, from the table."""
    section = (TOP / "docs/reference.md").read_text().partition("\n## Journal fields\n")[2].partition("\n## ")[0]
    return {name: text(meaning) for name, meaning in re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", section, re.M)}


def schema():
    """The whole schema."""
    kind = "KILLSNOOP_EVENT"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An event of killsnoopd, as a line of JSON",
        "description": "As killsnoopd --events.target=stdout, killsnoop -o json and journalctl -o json print it. Each value is "
        "text. A field whose value is not known is absent. The journal adds fields whose names begin with an underscore. A "
        "later minor release may add fields and values: docs/reference.md, What is stable.",
        "type": "object",
        "properties": {name: {"description": meaning, "type": "string", **form(name)} for name, meaning in documented().items()},
        "required": ALWAYS,
        "dependentRequired": {one: [other] for pair in TOGETHER for one, other in (pair, pair[::-1])},
        "allOf": [
            {"if": {"properties": {kind: {"const": name}}}, "then": {"required": required}} for name, required in BY_KIND.items()
        ],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, ensure_ascii=False))
