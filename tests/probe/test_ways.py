"""Which way of attaching is chosen, on kernels that no machine at hand runs."""

import os

import pytest

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import ways
from killsnoopd.settings import Settings

STATIC, DYNAMIC = "#1 SMP Debian 6.1.1", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.1"


@pytest.mark.parametrize(
    ("version", "debug", "command_line", "config", "preemptible"),
    [
        (STATIC, None, None, None, False),
        ("#1 SMP PREEMPT_RT Debian", "(none) voluntary full", "", "", True),
        ("#1 SMP PREEMPT Debian", None, None, None, True),
        (DYNAMIC, "none (voluntary) full\n", "preempt=full", None, False),
        (DYNAMIC, "(none) voluntary full\n", "", None, False),
        (DYNAMIC, "none voluntary (full)\n", "preempt=none", None, True),
        (DYNAMIC, "none voluntary full (lazy)\n", "", None, True),
        (DYNAMIC, None, "quiet preempt=full", "CONFIG_PREEMPT_NONE=y\n", True),
        (DYNAMIC, None, "preempt=full preempt=none", "", False),
        (DYNAMIC, None, "quiet", "# CONFIG_PREEMPT_NONE is not set\nCONFIG_PREEMPT_VOLUNTARY=y\n", False),
        (DYNAMIC, None, "quiet", "CONFIG_PREEMPT_LAZY=y\n", True),
        (DYNAMIC, None, "quiet", None, True),
    ],
)
def test_preemption_mode(version, debug, command_line, config, preemptible, tmp_path):
    """The first of uname, debugfs, the command line and the configuration that tells; in doubt, it preempts."""
    kernel = os.uname_result(("Linux", "host", "6.12.1", version, "x86_64"))
    files = {"debug": debug, "cmdline": command_line, "config-6.12.1": config}
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    assert ways.preemption_mode(kernel, tmp_path / "debug", tmp_path / "cmdline", tmp_path) == preemptible


@pytest.mark.parametrize(
    ("faultable", "text", "preemptible"),
    [
        (False, "none (voluntary) full\n", False),
        (False, "none voluntary (full)\n", True),
        (False, None, False),
        (True, None, True),
    ],
)
def test_what_the_daemon_sees_of_it(faultable, text, preemptible, tmp_path, monkeypatch):
    """Only what can change while it runs; a sandbox may hide that."""
    monkeypatch.setattr(ways, "has_preemptible_tracepoints", lambda: faultable)
    path = tmp_path / "preempt"
    if text is not None:
        path.write_text(text)
    assert ways.now_preemptible(path) == preemptible


@pytest.mark.parametrize(("text", "enabled"), [("1\n", True), ("0\n", False), (None, False)])
def test_ftrace_enabled(text, enabled, tmp_path):
    """There is no such file without ftrace."""
    path = tmp_path / "ftrace_enabled"
    if text is not None:
        path.write_text(text)
    assert ways.ftrace_enabled(path) == enabled


CASES = {
    # faultable tracepoints, preemptible, a pool of return nodes, ways that count: way of calls, of exits, inexact programs
    "6.1": (False, False, True, "fexit fentry tracepoint", "fexit", "tp_btf", []),
    "6.12, preempt=full": (False, True, True, "fexit fentry kprobe tracepoint", "tracepoint", "tp_btf", []),
    "6.18, preempt=full": (False, True, False, "fexit fentry kprobe tracepoint", "kprobe", "tp_btf", []),
    "6.18, no trampolines": (False, False, False, "kprobe tracepoint", "kprobe", "tp_btf", []),
    "6.18, no functions": (False, False, False, "tracepoint", "tracepoint", "tp_btf", []),
    "7.3": (True, False, False, "fexit fentry kprobe tracepoint", "kprobe", "fentry", []),
    "7.3, no trampolines": (True, False, False, "kprobe tracepoint", "kprobe", "kprobe", []),
    "7.3, no functions": (True, False, False, "tracepoint", "tracepoint", "tracepoint", ["sys_exit"]),
    "7.3, no tracefs": (True, False, False, "", "tracepoint", "tp_btf", ["sys_exit", "sched_process_exit"]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ftrace", [True, False], ids=["", "ftrace off"])
def test_the_choice(case, ftrace, monkeypatch):
    """The cheapest exact way that counts; with ftrace off, only tracepoints count."""
    faultable, mode, pool, counting, of_calls, of_exits, inexact = CASES[case]
    monkeypatch.setattr(ways, "has_preemptible_tracepoints", lambda: faultable)
    monkeypatch.setattr(ways, "preemption_mode", lambda _: mode)
    monkeypatch.setattr(ways, "has_return_pool", lambda: pool)
    monkeypatch.setattr(ways, "ftrace_enabled", lambda: ftrace)
    monkeypatch.setattr(ways, "_counts", lambda way, *_: way in counting.split())
    monkeypatch.setattr(ways, "_attaches", lambda way, _: way in counting.split())
    monkeypatch.setattr(ways.libbpf, "may_read_kernel_memory", lambda: True)
    chosen = ways.choose(Settings())
    assert chosen.get("out_of_memory") == ("fentry" if ftrace and "fentry" in counting else None)
    if not ftrace:
        assert chosen["sys_exit"] == "tracepoint"
        assert chosen["sched_process_exit"] not in ("fentry", "kprobe")
        return
    assert (chosen["sys_exit"], chosen["sched_process_exit"]) == (of_calls, of_exits)
    assert (chosen["signal_generate"], chosen["mark_victim"]) == ("tp_btf", "tp_btf")
    assert ways.inexact(chosen, ways.preemptible()) == inexact
    assert ("sys_exit" in ways.inexact(chosen | {"sys_exit": "fexit"}, ways.preemptible())) == (faultable or mode)


def test_locked_down(monkeypatch):
    """The program of an optional hook that could read nothing is not attached."""
    monkeypatch.setattr(ways, "_counts", lambda *_: False)
    monkeypatch.setattr(ways, "_attaches", lambda *_: True)
    monkeypatch.setattr(ways, "ftrace_enabled", lambda: True)
    for allowed in (True, False):
        monkeypatch.setattr(ways.libbpf, "may_read_kernel_memory", lambda allowed=allowed: allowed)
        assert ("out_of_memory" in ways.choose(Settings())) == allowed


def test_a_way_that_is_asked_for(monkeypatch):
    """Is taken if it counts, exact or not; otherwise nothing starts."""
    monkeypatch.setattr(ways, "has_preemptible_tracepoints", lambda: False)
    monkeypatch.setattr(ways, "ftrace_enabled", lambda: True)
    monkeypatch.setattr(ways, "_counts", lambda way, *_: way == "kprobe")
    assert ways.choose(Settings(attach="kprobe"))["sys_exit"] == "kprobe"
    assert ways.choose(Settings(attach="tracepoint"))["sys_exit"] == "tracepoint"
    with pytest.raises(Failure, match=r"runs no program by fexit: leave out --probe\.attach=fexit") as refused:
        ways.choose(Settings(attach="fexit"))
    assert refused.value.exit_code == Exit.UNAVAILABLE
    monkeypatch.setattr(ways, "ftrace_enabled", lambda: False)
    with pytest.raises(Failure, match="kprobe"):
        ways.choose(Settings(attach="kprobe"))
