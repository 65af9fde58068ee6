"""The table of hooks, and the messages when attaching fails."""

import re
from pathlib import Path

import pytest

from killsnoopd import names
from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import hooks
from killsnoopd.settings import ATTACH, Settings


@pytest.mark.parametrize(
    ("paranoid", "capability"), [(-1, "CAP_PERFMON"), (2, "CAP_PERFMON"), (3, "CAP_SYS_ADMIN"), (4, "CAP_SYS_ADMIN")]
)
def test_perf_refusal_names_the_capability_that_cures_it(paranoid, capability):
    """Debian's level 3 requires more than the kernel's own levels."""
    failure = hooks.perf_refusal(paranoid)
    assert failure.exit_code == Exit.NOPERM
    assert f"kernel.perf_event_paranoid={paranoid}" in str(failure)
    assert f"the loader needs {capability}; run it as root" in str(failure)


def test_tracefs(tmp_path):
    """The older mount point works too; a missing tracepoint and a missing mount have different messages."""
    new, old = tmp_path / "tracing", tmp_path / "debug/tracing"
    with pytest.raises(Failure, match="tracefs is not mounted"):
        hooks.tracepoint_id(hooks.by_name("kill"), (new, old))
    (old / "events/syscalls/sys_exit_kill").mkdir(parents=True)
    with pytest.raises(Failure, match="no tracepoint syscalls/sys_exit_kill"):
        hooks.tracepoint_id(hooks.by_name("kill"), (new, old))
    (old / "events/syscalls/sys_exit_kill/id").write_text("250\n")
    assert hooks.tracepoint_id(hooks.by_name("kill"), (new, old)) == 250


def test_the_older_mount_point_is_left_alone(tmp_path):
    """If tracefs is mounted, debugfs is not touched: the kernel would mount tracefs there and log a warning."""

    class Untouchable:
        def __truediv__(self, other):
            raise AssertionError(f"looked at {other}")

    event = tmp_path / "events/syscalls/sys_exit_kill"
    event.mkdir(parents=True)
    (event / "id").write_text("250\n")
    assert hooks.tracepoint_id(hooks.by_name("kill"), (tmp_path, Untouchable())) == 250


def test_the_programs_are_documented():
    """docs/design.md has a row for each program."""
    section = (Path(__file__).parent.parent.parent / "docs/design.md").read_text().partition("\n## Programs\n")[2]
    assert re.findall(r"^\| `(\w+)`", section.partition("\n## ")[0], re.M) == list(hooks.PROGRAMS)


def test_the_table():
    """Each hook has known ways, hooks of one program the same; the flags leave out only calls."""
    assert {way for hook in hooks.HOOKS for way in hook.ways} == set(hooks.WAYS)
    assert len({(hook.program, hook.ways) for hook in hooks.HOOKS}) == len(hooks.PROGRAMS)
    assert hooks.by_name("kill").ways == ATTACH
    assert hooks.chosen(Settings()) == hooks.HOOKS
    left_out = {*hooks.HOOKS} - {*hooks.chosen(Settings(syscalls=("tkill",)))}
    assert {hook.name for hook in left_out} == {*names.SYSCALLS} - {"tkill"}


def test_points(monkeypatch):
    """A link per hook and an entry per program; with fexit, both per kernel function."""
    monkeypatch.setattr(hooks, "functions", lambda hook, way: (f"__x64_sys_{hook.name}", f"__ia32_sys_{hook.name}"))
    ways = {hook.program: hook.ways[-1] for hook in hooks.HOOKS if not hook.optional}
    settings = Settings(syscalls=("kill", "tkill"))
    rest = ["signal_generate", "mark_victim", "sched_process_exit"]
    points = hooks.points(settings, ways)
    assert [point.link for point in points] == [
        "kill@tracepoint", "tkill@tracepoint", "signal_generate@tp_btf", "mark_victim@tp_btf",
        "sched_process_exit@tracepoint",
    ]  # fmt: skip
    assert [point.entry for point in points] == ["sys_exit", "sys_exit", *rest]
    with_optional = hooks.points(settings, ways | {"out_of_memory": "fentry"})
    added = [point.link for point in with_optional if point not in points]
    assert added == ["out_of_memory@fentry@__x64_sys_out_of_memory", "out_of_memory@fentry@__ia32_sys_out_of_memory"]
    points = hooks.points(settings, ways | {"sys_exit": "fexit"})
    functions = ("__x64_sys_kill", "__ia32_sys_kill", "__x64_sys_tkill", "__ia32_sys_tkill")
    assert [point.link for point in points[:4]] == [
        f"{name}@fexit@{function}" for name, function in zip(("kill", "kill", "tkill", "tkill"), functions, strict=True)
    ]
    assert [point.entry for point in points] == [*(f"sys_exit@{function}" for function in functions), *rest]
