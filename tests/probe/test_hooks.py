"""The table of hooks, and the messages when attaching fails."""

import re
from pathlib import Path

import pytest

from killsnoopd import names
from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import hooks
from killsnoopd.settings import Settings


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
    (old / "events/oom/mark_victim").mkdir(parents=True)
    (old / "events/oom/mark_victim/id").write_text("609\n")
    assert hooks.tracepoint_id(hooks.by_name("mark_victim"), (new, old)) == 609


def test_the_older_mount_point_is_left_alone(tmp_path):
    """If tracefs is mounted, debugfs is not touched: the kernel would mount tracefs there and log a warning."""

    class Untouchable:
        def __truediv__(self, other):
            raise AssertionError(f"looked at {other}")

    event = tmp_path / "events/syscalls/sys_exit_kill"
    event.mkdir(parents=True)
    (event / "id").write_text("250\n")
    assert hooks.tracepoint_id(hooks.by_name("kill"), (tmp_path, Untouchable())) == 250


COMMON = """\
name: mark_victim
ID: 609
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;
	field:unsigned char common_preempt_count;	offset:3;	size:1;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;
"""


@pytest.mark.parametrize(
    ("fields", "offset"),
    [
        ("\tfield:int pid;\toffset:8;\tsize:4;\tsigned:1;\n", 8),
        (
            "\tfield:unsigned char common_preempt_lazy_count;\toffset:8;\tsize:1;\tsigned:0;\n\n"
            "\tfield:int pid;\toffset:12;\tsize:4;\tsigned:1;\n",
            12,
        ),
    ],
    ids=["most kernels", "PREEMPT_RT"],
)
def test_where_a_field_is(tmp_path, fields, offset):
    """The kernel states it; for a missing field, the failure has its name."""
    event = tmp_path / "events/oom/mark_victim"
    event.mkdir(parents=True)
    (event / "format").write_text(COMMON + fields)
    assert hooks.field_offset(hooks.by_name("mark_victim"), "pid", (tmp_path,)) == offset
    with pytest.raises(Failure, match="no field victim in tracepoint oom/mark_victim"):
        hooks.field_offset(hooks.by_name("mark_victim"), "victim", (tmp_path,))


def test_the_programs_are_documented():
    """docs/design.md has a row for each program."""
    section = (Path(__file__).parent.parent.parent / "docs/design.md").read_text().partition("\n## Programs\n")[2]
    assert re.findall(r"^\| `(\w+)`", section.partition("\n## ")[0], re.M) == list(hooks.PROGRAMS)


def test_the_table():
    """Each hook has a known mechanism; the flags leave out only calls."""
    assert {hook.mechanism for hook in hooks.HOOKS} == set(hooks.MECHANISMS)
    assert hooks.chosen(Settings()) == hooks.HOOKS
    left_out = {*hooks.HOOKS} - {*hooks.chosen(Settings(syscalls=("tkill",)))}
    assert {hook.name for hook in left_out} == {*names.SYSCALLS} - {"tkill"}
    for hook in hooks.HOOKS:
        assert hooks.btf_tracepoint(hook.program) == (hook.name if hook.mechanism == "tp_btf" else None)
