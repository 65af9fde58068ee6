"""What attaching says when it cannot."""

import pytest

from killsnoopd import tracepoints
from killsnoopd.failure import Exit, Failure


@pytest.mark.parametrize(
    ("paranoid", "capability"), [(-1, "CAP_PERFMON"), (2, "CAP_PERFMON"), (3, "CAP_SYS_ADMIN"), (4, "CAP_SYS_ADMIN")]
)
def test_perf_refusal_names_the_capability_that_cures_it(paranoid, capability):
    """Debian's level 3 asks for more than the kernel's own levels."""
    failure = tracepoints.perf_refusal(paranoid)
    assert failure.exit_code == Exit.NOPERM
    assert f"kernel.perf_event_paranoid={paranoid}" in str(failure)
    assert f"the loader needs {capability}; run it as root" in str(failure)


def test_tracefs(tmp_path):
    """The older mount point serves too; a missing tracepoint and a missing mount are told apart."""
    new, old = tmp_path / "tracing", tmp_path / "debug/tracing"
    with pytest.raises(Failure, match="tracefs is not mounted"):
        tracepoints.tracepoint_id("kill", (new, old))
    (old / "events/syscalls/sys_exit_kill").mkdir(parents=True)
    with pytest.raises(Failure, match="no tracepoint syscalls/sys_exit_kill"):
        tracepoints.tracepoint_id("kill", (new, old))
    (old / "events/syscalls/sys_exit_kill/id").write_text("250\n")
    assert tracepoints.tracepoint_id("kill", (new, old)) == 250
    (old / "events/oom/mark_victim").mkdir(parents=True)
    (old / "events/oom/mark_victim/id").write_text("609\n")
    assert tracepoints.tracepoint_id("mark_victim", (new, old)) == 609
