"""What the probe needs of the kernel's BPF, found out by trial: distributions backport features to older kernels."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe import libbpf

_MAP_TYPE_RINGBUF = 27  # enum bpf_map_type
_GET_CURRENT_TASK_BTF, _TASK_PT_REGS = 158, 175  # enum bpf_func_id
# r1 = 1; *(u64 *)(r10 - 8) = r1; r1 = xchg(r10 - 8, r1); r0 = 0; exit
_EXCHANGE = bytes.fromhex("b701000001000000 7b1af8ff00000000 db1af8ffe1000000 b700000000000000 9500000000000000")


def _compiles_exchange() -> bool:
    try:
        os.close(libbpf.load_program("exchange", libbpf.TRACEPOINT, _EXCHANGE, "GPL"))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            raise
        return False
    return True


NEEDED: dict[str, Callable[[], bool]] = {
    "atomic exchange": _compiles_exchange,  # Linux 5.12; the JIT of arm64: 5.18
    "BPF ring buffers": partial(libbpf.has_map_type, _MAP_TYPE_RINGBUF),  # 5.8
    "bpf_get_current_task_btf": partial(libbpf.has_helper, _GET_CURRENT_TASK_BTF),  # 5.11
    "bpf_task_pt_regs": partial(libbpf.has_helper, _TASK_PT_REGS),  # 5.15
}
"""The newest ones; a kernel that has them has the older ones."""


def check() -> str:
    """The features that were found: all. Raises Failure that names those that are missing."""
    try:
        missing = [name for name, there in NEEDED.items() if not there()]
    except OSError as error:
        # CAP_BPF and CAP_PERFMON were there: it is not the kernel itself that refuses.
        raise Failure(
            Exit.NOPERM,
            f"bpf(2) is refused ({error.strerror}) despite the capabilities: "
            "allow it in the seccomp profile of the container, or in the policy of the security module",
        ) from None
    if missing:
        raise Failure(
            Exit.UNAVAILABLE,
            f"kernel {os.uname().release} has no {', no '.join(missing)}: "
            "use Linux 5.15 (arm64: 5.18) or later, or a kernel with these backported",
        )
    return ", ".join(NEEDED)
