"""Which features of the kernel are missing; tests/vm boots a kernel that lacks them."""

import errno
import os

import pytest

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import features


@pytest.fixture
def without(monkeypatch):
    """A kernel without these features."""

    def lack(*names):
        kernel = {name: lambda name=name: name not in names for name in features.NEEDED}
        monkeypatch.setattr(features, "NEEDED", kernel)

    return lack


def test_all_are_there(without):
    """They are listed."""
    without()
    assert features.check() == "atomic exchange, BPF ring buffers, bpf_get_current_task_btf, bpf_task_pt_regs"


def test_missing(without):
    """One line names all that are missing."""
    without("atomic exchange", "bpf_task_pt_regs")
    with pytest.raises(Failure, match=" has no atomic exchange, no bpf_task_pt_regs: use ") as failed:
        features.check()
    assert failed.value.exit_code == Exit.UNAVAILABLE
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("number", "exit_code", "says"),
    [
        (errno.EPERM, Exit.NOPERM, r"bpf\(2\) is refused \(Operation not permitted\) despite the capabilities: "),
        (errno.ENOSYS, Exit.NOPERM, r"bpf\(2\) is refused \(Function not implemented\) despite the capabilities: "),
        (errno.EINVAL, Exit.UNAVAILABLE, "has no atomic exchange: "),  # the verifier
        (524, Exit.UNAVAILABLE, "has no atomic exchange: "),  # ENOTSUPP: the JIT of arm64 before Linux 5.18
    ],
)
def test_what_the_kernel_answers(without, monkeypatch, number, exit_code, says):
    """A refused call is not a missing feature."""

    def load_program(*_):
        raise OSError(number, os.strerror(number))

    exchange = features.NEEDED["atomic exchange"]
    without()
    features.NEEDED["atomic exchange"] = exchange
    monkeypatch.setattr(features.libbpf, "load_program", load_program)
    with pytest.raises(Failure, match=says) as failed:
        features.check()
    assert failed.value.exit_code == exit_code
