"""Events in any order, with any fields: nothing raises, and no sender is named that no event names."""

import io
import json
import re
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from killsnoopd import names
from killsnoopd.query import records, story, table, top, who
from killsnoopd.query.table import Style

START = datetime(2026, 11, 22, 3, tzinfo=UTC)
comms = st.sampled_from(["nginx", "bash", "nginx.service", "a-name-of-fifte", r"\xff", "systemd"])
pids = st.sampled_from(["0", "1", "7", "812", "4194304"])
origins = st.sampled_from(["syscall", "cgroup", "oom", "pdeathsig", "autokill", "kernel", "self", "unknown", "new"])
plausible = st.fixed_dictionaries(
    {
        "EVENT": st.sampled_from(records.KINDS),
        "TIMESTAMP": st.integers(0, 2 * 10**8).map(lambda us: (START + timedelta(microseconds=us)).isoformat()),
    },
    optional={
        "PID": pids, "COMM": comms, "TPID": pids, "TCOMM": comms, "ORIGIN": origins,
        "SIG": st.sampled_from(["1", "9", "11", "15", "19"]), "SIGNAL": st.sampled_from(["SIGHUP", "SIGKILL", "SIGTERM"]),
        "OUTCOME": st.sampled_from(["delivered", "ignored", "lose_info", "died"]),
        "TARGET_UNIT": st.sampled_from(["nginx.service", "x.scope"]), "UNIT": st.just("y.service"),
        "ELAPSED_MS": st.sampled_from(["0.001", "800.000", "60000.0", "nan", "inf", "x"]),
        "EXIT_STATUS": st.sampled_from(["0", "255"]), "SYSCALL": st.just("kill"), "RES": st.sampled_from(["0", "-1"]),
        "CODE_NAME": st.just("SEGV_MAPERR"), "ORIGIN_INFERRED": st.just("1"), "UID": st.sampled_from(["0", "-1", "x"]),
        "LOGINUID": st.just("1000"), "PARENT_COMM": comms,
    },
)  # fmt: skip
anything = st.dictionaries(
    st.sampled_from("EVENT TIMESTAMP PID COMM TPID TCOMM SIG SIGNAL OUTCOME ORIGIN ELAPSED_MS".split()),
    st.one_of(st.text(), st.none(), st.integers(), st.lists(st.text())),
)
asked = st.one_of(
    st.sampled_from(
        ["nginx", "812", "nginx.service", "a-name-of-fifteen-bytes", "/usr/sbin/nginx", "x.scope", r"\xff"]
    ),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")),
)


def lines(events):
    return [json.dumps({f"KILLSNOOP_{name}": value for name, value in found.items()}).encode() for found in events]


def parsed(events):
    return list(records.from_stream(io.BytesIO(b"\n".join(lines(events))), lambda line: None))


@settings(max_examples=400, deadline=None)
@given(st.lists(plausible, max_size=12), asked, st.booleans())
def test_who_names_only_senders_that_an_event_names(events, name, newest_first):
    """It answers with an end or with a deadly signal, and only for a process that was asked for."""
    found = parsed(events)
    assert len(found) == len(events)
    answer = who.search(found, name, newest_first=newest_first)
    assert (answer is None) == (
        not any(way.has(record) for way in who.ways(name) for record in found if may_answer(record))
    )
    if answer is None:
        return
    assert answer.last in found
    assert answer.last["KILLSNOOP_EVENT"] in (*records.ENDS, "delivery")
    line = story.sentences(answer, who.around(found, answer.last))
    assert line.isprintable()
    by = {(record.get("KILLSNOOP_COMM", "?"), record.get("KILLSNOOP_PID")) for record in found if who.sender(record)}
    for comm, pid in re.findall(r"(?:after|by|SIGTERM by|minute of that,) ([^ ]+)\[(\d+)\]", line):
        assert (comm, pid) in by
    if answer.last.get("KILLSNOOP_ORIGIN") in ("self", "unknown") and not answer.earlier:
        assert " sent it" not in line
        assert "also killed" not in line


def may_answer(record):
    return record["KILLSNOOP_EVENT"] in records.ENDS or who.deadly(record)


@settings(max_examples=200, deadline=None)
@given(st.lists(plausible, max_size=12), asked)
def test_the_newest_end_answers_in_any_order(events, name):
    """From a file, whose order does not count."""
    found = parsed(events)
    times = {who.search(order, name) and records.moment(who.search(order, name).last) for order in (found, found[::-1])}
    assert len(times) == 1


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.one_of(plausible, anything), max_size=6),
    st.integers(20, 250),
    st.sampled_from(["utf-8", "ascii", "latin-1"]),
    st.sampled_from(top.BY),
)
def test_any_events_in_the_table(events, total, encoding, by):
    """Every line is printable and can be encoded; so is the table of `top`, and what `who` says of any pid."""
    style = Style(encoding=encoding)
    found = parsed(events)
    chosen = table.columns(total, dated=True, hosts=True)
    shown = [table.row(record, chosen, style) for record in found]
    shown += top.lines(top.tally(found, by, style), by, total, style)
    assert all(line.isprintable() and line.encode(encoding) is not None for line in shown)
    for record in found:
        if answer := who.search(found, record.get("KILLSNOOP_TPID", "")):
            assert story.sentences(answer, who.around(found, answer.last)).isprintable()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(line):
    """A line is an event, or is skipped."""
    records.parse(line)


@given(st.binary(max_size=40))
def test_any_name_is_found_by_itself(raw):
    """As the kernel keeps it, however it is asked for: raw, or as it was logged."""
    raw = raw.replace(b"\0", b"").replace(b"/", b"") or b"x"
    comm = names.text(raw[:15])
    if comm.isdigit() or who._UNIT.fullmatch(comm):
        return
    (record,) = parsed([{"EVENT": "death", "TIMESTAMP": START.isoformat(), "TPID": "1", "TCOMM": comm}])
    assert who.search([record], raw.decode("utf-8", "surrogateescape")) or raw.isdigit()
    assert who.search([record], comm)
