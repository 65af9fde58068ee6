"""The running daemon has no privilege."""

import contextlib
import re
import shutil
import time
from pathlib import Path

import pytest
from conftest import (
    DEFAULTS,
    PINS,
    SHIPPED,
    active,
    calls,
    exposures,
    journal,
    kill_as,
    main_pid,
    our_programs,
    run,
    scrape,
    show,
)
from senders import NO_SUCH_PID, send
from waiting import wait_for

PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
FTRACE = Path("/proc/sys/kernel/ftrace_enabled")
DYNAMIC_USER = Path("/usr/share/doc/killsnoopd/dynamic-user")


def test_exposure(record_property):
    """With the units as shipped."""
    limits = {"killsnoopd": 0.8, "killsnoopd-probe": 1.5, "killsnoopd-probe-check": 1.0}
    levels = exposures(*limits)
    for unit, limit in limits.items():
        record_property(f"exposure_of_{unit}", levels[unit])
        assert levels[unit] <= limit


def test_no_capability_and_no_network():
    """No capability in any set, and no network, not even loopback, except the socket that systemd passed."""
    status = Path(f"/proc/{main_pid()}/status").read_text()
    assert set(re.findall(r"^Cap\w+:\s*(\w+)", status, re.M)) == {"0" * 16}
    assert re.search(r"^NoNewPrivs:\s*1$", status, re.M)
    assert re.search(r"^Seccomp:\s*2$", status, re.M)
    assert Path(f"/proc/{main_pid()}/ns/net").readlink() != Path("/proc/1/ns/net").readlink()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow", "/var/log/journal", "/root", "/home", "/run/systemd/private", "/run/dbus/system_bus_socket",
        "/run/killsnoopd/private", "/sys/fs/bpf", "/run/udev",
    ],
)  # fmt: skip
def test_what_it_cannot_see(path):
    """Root's files, and sockets that obey root; tried in its own mount namespace, with its own rights."""
    seen = Path(f"/proc/{main_pid()}/root{path}")
    if seen.exists():
        assert seen.is_dir()
        assert (seen.stat().st_mode & 0o777 == 0) or list(seen.iterdir()) == []


def test_it_sees_that_ftrace_is_off():
    """From within its sandbox: what is attached to functions does not count then; newer kernels refuse to turn it off."""
    by_function = 'killsnoop_probe_hook_info{hook="kill",way="tracepoint"}' not in scrape()
    try:
        with contextlib.suppress(OSError):
            FTRACE.write_text("0")
        off = FTRACE.read_text() == "0\n"
        assert scrape()['killsnoop_probe_attached{hook="kill"}'] == (0 if off and by_function else 1)
    finally:
        FTRACE.write_text("1")
    kill_as("ks-ftrace", lambda: send("kill", NO_SUCH_PID, 9))
    assert calls("ks-ftrace") == 1


def test_dynamic_user(record_property):
    """With the drop-ins that are shipped: a user of its own; everything works except the line in the victim's log."""
    folders = {name: Path(f"/etc/systemd/system/{name}.service.d") for name in ("killsnoopd", "killsnoopd-probe")}
    try:
        for name, folder in folders.items():
            folder.mkdir()
            shutil.copy(DYNAMIC_USER / f"{name}.service.conf", folder / "dynamic-user.conf")
        run("systemd-sysusers")
        run("systemctl", "daemon-reload")
        run("systemctl", "stop", "killsnoopd")
        run("systemctl", "start", "killsnoopd")
        level = exposures("killsnoopd")["killsnoopd"]
        record_property("exposure_with_dynamic_user", level)
        assert level <= 0.5
        assert re.search(r"^Uid:\s*(\d+)", Path(f"/proc/{main_pid()}/status").read_text(), re.M)[1] != "0"
        kill_as("ks-dynamic", lambda: send("kill", NO_SUCH_PID, 9))
        assert calls("ks-dynamic") == 1
        wait_for(lambda: journal("KILLSNOOP_COMM=ks-dynamic"), "the event")
    finally:
        for folder in folders.values():
            shutil.rmtree(folder)
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", "killsnoopd")
    assert active()


def test_stop_and_start_whatever_perf_event_paranoid(record_property):
    """Stopping removes every pin and program, but keeps the port; the unit's capabilities are enough for each level.

    Records the time from start to READY, with the probe to compile and with the probe pinned.
    """

    def took_s(verb):
        before = time.monotonic()
        run("systemctl", verb, "killsnoopd")
        return time.monotonic() - before

    before = PARANOID.read_text()
    assert before == "3\n"  # Debian's own value: every other test covers it
    for paranoid in (2, 4):
        run("systemctl", "stop", "killsnoopd")
        wait_for(lambda: not PINS.exists() and not our_programs(), "the probe to go")
        assert active("killsnoopd.socket")
        PARANOID.write_text(str(paranoid))
        try:
            cold_s = took_s("start")
            kill_as(f"ks-paranoid-{paranoid}", lambda: send("kill", NO_SUCH_PID, 9))
            assert calls(f"ks-paranoid-{paranoid}") == 1
        finally:
            PARANOID.write_text(before)
    pinned_s = took_s("restart")
    record_property("s_to_ready_cold", round(cold_s, 1))
    record_property("s_to_ready_pinned", round(pinned_s, 1))
    assert pinned_s < cold_s


def test_flags_are_read_at_reload_and_a_wrong_one_is_told():
    """`systemctl reload` applies new flags of the probe immediately, without a restart, and counting continues.

    A wrong flag: one line, the documented exit code, no restart; the port answers again once the flag is fixed.
    """
    kill_as("ks-reload", lambda: send("kill", NO_SUCH_PID, 9))
    pid = main_pid()
    try:
        DEFAULTS.write_text('ARGS="--events.exclude=signal=SIGUSR1"\n')
        run("systemctl", "reload", "killsnoopd")
        kill_as("ks-reload", lambda: (send("kill", NO_SUCH_PID, 10), send("kill", NO_SUCH_PID, 12)))
        wait_for(lambda: journal("KILLSNOOP_COMM=ks-reload", "KILLSNOOP_SIGNAL=SIGUSR2"), "the event that is wanted")
        assert journal("KILLSNOOP_COMM=ks-reload", "KILLSNOOP_SIGNAL=SIGUSR1") == []
        assert calls("ks-reload") == 3
        assert main_pid() == pid
        DEFAULTS.write_text(SHIPPED)
        run("systemctl", "restart", "killsnoopd")
        assert calls("ks-reload") == 3
        DEFAULTS.write_text('ARGS="--no-such-flag"\n')
        run("systemctl", "restart", "killsnoopd", check=False)
        wait_for(lambda: show("killsnoopd.service", "ActiveState") in ("failed", "inactive"), "it to give up")
        said = run("journalctl", "-u", "killsnoopd", "-u", "killsnoopd-probe", "-n", "20", "--no-pager")
        assert "--no-such-flag" in said
        assert show("killsnoopd.service", "ExecMainStatus") == "2"
    finally:
        DEFAULTS.write_text(SHIPPED)
        run("systemctl", "reset-failed", "killsnoopd", check=False)
        run("systemctl", "start", "killsnoopd")
    assert scrape()
