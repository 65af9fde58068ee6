"""--events.exclude: which events the rules silence; everything is counted all the same."""

import os
import resource
import signal
import tempfile

import pytest
from running import load
from senders import NO_SUCH_PID, NOBODY, run, send

RULES = (
    "comm=kx-silent", "comm=kx-narrow,signal=SIGUSR1,SIGTERM", "uid=65534,comm=kx-nobody", "uid=65534,signal=SIGUSR2",
    r"comm=kx\x2c\x0a\\\xff", "comm=kx-fifteen-byte", "comm=kx-invalid,signal=invalid",
)  # fmt: skip


def flags(*rules):
    return ("--events.rate=0", *(f"--events.exclude={rule}" for rule in rules))


FLAGS = flags(*RULES)


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon


def logged(daemon, comm, act, uid=None):
    """The events of what a process of this name does: kind and signal of each."""
    before = len(daemon.events())
    pid = run(act, comm, uid)
    new = daemon.events()[before:]
    return [
        (event["KILLSNOOP_EVENT"], event["KILLSNOOP_SIGNAL"]) for event in new if event["KILLSNOOP_PID"] == str(pid)
    ]


@pytest.mark.parametrize(
    ("comm", "uid", "signals"),
    [
        (b"kx-silent", None, []),
        (b"kx-silent", NOBODY, []),
        (b"kx-silent2", None, ["SIGUSR1", "SIGUSR2", "invalid"]),
        (b"kx-silen", None, ["SIGUSR1", "SIGUSR2", "invalid"]),
        (b"kx-narrow", None, ["SIGUSR2", "invalid"]),
        (b"kx-nobody", None, ["SIGUSR1", "SIGUSR2", "invalid"]),
        (b"kx-nobody", NOBODY, []),
        (b"kx-anybody", NOBODY, ["SIGUSR1", "invalid"]),
        (b"kx,\n\\\xff", None, []),
        (b"kx,\n\\\xfe", None, ["SIGUSR1", "SIGUSR2", "invalid"]),
        (b"kx-fifteen-byte-and-more", None, []),
        (b"kx-invalid", None, ["SIGUSR1", "SIGUSR2"]),
    ],
)
def test_failed_calls(daemon, comm, uid, signals):
    """By name, uid and signal, alone and together."""
    before, counted = daemon.ledger()["filtered"], sum(daemon.signals().values())
    found = logged(daemon, comm, lambda: [send("kill", NO_SUCH_PID, sig) for sig in (10, 12, 99)], uid)
    assert found == [("call", name) for name in signals]
    assert daemon.ledger()["filtered"] - before >= 3 - len(signals)
    assert sum(daemon.signals().values()) - counted >= 3


@pytest.mark.parametrize(
    ("comm", "number", "events"),
    [
        (b"kx-silent", 9, []),
        (b"kx-loud", 9, [("delivery", "SIGKILL"), ("death", "SIGKILL")]),
        (b"kx-narrow", 9, [("delivery", "SIGKILL"), ("death", "SIGKILL")]),
        (b"kx-narrow", 15, []),
    ],
)
def test_deliveries_and_deaths(daemon, processes, comm, number, events):
    """A rule silences the death as well as the signal; that the sender was seen is counted."""
    name = signal.Signals(number).name
    before = daemon.deaths().get((name, "syscall"), 0)
    victim = processes.victim("kx-victim")
    run(lambda: send("kill", victim, number), comm)
    os.waitpid(victim, 0)
    found = [
        (event["KILLSNOOP_EVENT"], event["KILLSNOOP_SIGNAL"])
        for event in daemon.events()
        if event.get("KILLSNOOP_TPID") == str(victim)
    ]
    assert found == events
    assert daemon.deaths()[name, "syscall"] >= before + 1


def test_the_kernel_has_no_name(daemon):
    """It sends SIGXFSZ while a process of an excluded name runs: that event stays."""

    def write_too_much():
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the probe builds both events in the same memory
        send("kill", os.getpid(), signal.SIGCONT)
        signal.signal(signal.SIGXFSZ, lambda *_: os._exit(0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        with tempfile.TemporaryFile() as file:
            os.write(file.fileno(), b"x")  # file.write() would try again when the file is closed

    run(write_too_much, b"kx-silent")
    events = daemon.events("kernel")
    (event,) = [
        found
        for found in events
        if found["KILLSNOOP_EVENT"] == "delivery" and found.get("KILLSNOOP_TCOMM") == "kx-silent"
    ]
    assert event["KILLSNOOP_SIGNAL"] == "SIGXFSZ"


def test_new_rules_take_over(start, pins):
    """systemctl reload: the probe keeps its counts, and follows the new rules from then on."""

    def act():
        send("kill", NO_SUCH_PID, 15)

    for rules, events in (((), 1), (("comm=kx-reload", "uid=65534"), 0), (("uid=65534",), 1), (("comm=kx-reload",), 0)):
        load(pins, *flags(*rules))
        daemon = start(*flags(*rules), f"--probe.pin={pins}")
        assert len(logged(daemon, b"kx-reload", act)) == events
        assert daemon.stop() == 0
    daemon = start(*flags(*rules), f"--probe.pin={pins}")
    assert daemon.signals("kx-reload") == {("kx-reload", "SIGTERM", "ESRCH"): 4}
