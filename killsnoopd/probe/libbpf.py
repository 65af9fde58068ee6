"""Typed bindings of the libbpf 1.x functions that the package uses. Errors raise OSError.

Source: libbpf's bpf.h, btf.h and libbpf.h. All but those of the ring buffer are thin wrappers of bpf(2) commands.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache

from killsnoopd.failure import Exit, Failure

_BPF_TRACE_RAW_TP, _BPF_PERF_EVENT = 23, 41  # enum bpf_attach_type
_BPF_PROG_TYPE_TRACEPOINT, _BPF_PROG_TYPE_TRACING = 5, 26  # enum bpf_prog_type
_BPF_FUNC_PROBE_READ_KERNEL_STR = 115  # enum bpf_func_id
_BTF_STRUCT, _BTF_UNION, _BTF_FUNCTION = 4, 5, 12  # BTF_KIND_*

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "bpf_obj_pin": (c_int, [c_int, c_char_p]),
    "bpf_obj_get": (c_int, [c_char_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_freeze": (c_int, [c_int]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_link_create": (c_int, [c_int, c_int, c_int, c_void_p]),
    "bpf_prog_load": (c_int, [c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p]),
    "bpf_raw_tracepoint_open": (c_int, [c_char_p, c_int]),
    "libbpf_find_vmlinux_btf_id": (c_int, [c_char_p, c_int]),
    "libbpf_probe_bpf_helper": (c_int, [c_int, c_int, c_void_p]),
    "libbpf_version_string": (c_char_p, []),
    "btf__load_vmlinux_btf": (c_void_p, []),
    "btf__free": (None, [c_void_p]),
    "btf__find_by_name_kind": (c_int, [c_void_p, c_char_p, c_uint32]),
    "btf__type_by_id": (c_void_p, [c_void_p, c_uint32]),
    "btf__name_by_offset": (c_char_p, [c_void_p, c_uint32]),
}


@cache
def _lib() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise Failure(
            Exit.CONFIG, f"libbpf.so.1 is missing ({error}): install libbpf1 (Debian, Ubuntu) or libbpf (Fedora)"
        ) from None
    for name, (restype, argtypes) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = restype, argtypes
    lib.libbpf_set_print.argtypes = [c_void_p]
    lib.libbpf_set_print(None)  # we report errors ourselves
    return lib


def version() -> str:
    """The library's version. Raises Failure if it is missing."""
    return str(_lib().libbpf_version_string().decode())


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result), what)
    return result


def obj_pin(fd: int, path: str) -> None:
    """Pin a kernel object at a path on bpffs, which keeps it alive."""
    _checked(_lib().bpf_obj_pin(fd, os.fsencode(path)), path)


def obj_get(path: str) -> int:
    """An fd of the kernel object that is pinned at `path`; the caller closes it."""
    return _checked(_lib().bpf_obj_get(os.fsencode(path)), path)


def map_freeze(fd: int) -> None:
    """Freeze the map: from now on only BPF programs can write it, no user-space program, not even as root."""
    _checked(_lib().bpf_map_freeze(fd), "bpf_map_freeze")


def array_set(map_fd: int, index: int, value: bytes) -> None:
    """Store an element of an array."""
    key = c_uint32(index)
    _checked(_lib().bpf_map_update_elem(map_fd, ctypes.byref(key), value, 0), "bpf_map_update_elem")


def prog_array_set(map_fd: int, prog_fd: int) -> None:
    """Store a program as element 0 of a program array. The next tail call runs it."""
    key, value = c_uint32(0), c_uint32(prog_fd)
    _checked(_lib().bpf_map_update_elem(map_fd, ctypes.byref(key), ctypes.byref(value), 0), "bpf_map_update_elem")


def link_perf_event(prog_fd: int, perf_fd: int) -> int:
    """Attach a program to a perf event, for as long as the link lives; an fd of the link. Linux 5.15."""
    return _checked(_lib().bpf_link_create(prog_fd, perf_fd, _BPF_PERF_EVENT, None), "bpf_link_create")


class _ProgLoadOpts(ctypes.Structure):  # struct bpf_prog_load_opts of libbpf 0.7; later ones are longer
    _fields_ = (
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_int),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
        ("fd_array", c_void_p),
        ("func_info", c_void_p),
        ("func_info_cnt", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("line_info", c_void_p),
        ("line_info_cnt", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_void_p),
    )


class Refused(OSError):
    """The verifier rejected a program; `log` is its output."""

    log = ""


def load_program(name: str, btf_tracepoint: str | None, instructions: bytes, license_name: str) -> int:
    """Load a program; its fd. With `btf_tracepoint`, it is for that BTF tracepoint, else for any classic tracepoint.

    Raises Refused if the verifier rejects it.
    """
    log = ctypes.create_string_buffer(1 << 20)
    options = _ProgLoadOpts(sz=ctypes.sizeof(_ProgLoadOpts), log_size=len(log), log_buf=ctypes.addressof(log))
    program_type = _BPF_PROG_TYPE_TRACEPOINT
    if btf_tracepoint:
        program_type = _BPF_PROG_TYPE_TRACING
        options.expected_attach_type = _BPF_TRACE_RAW_TP
        found = _lib().libbpf_find_vmlinux_btf_id(btf_tracepoint.encode(), _BPF_TRACE_RAW_TP)
        options.attach_btf_id = _checked(found, btf_tracepoint)
    count = len(instructions) // 8
    result = _lib().bpf_prog_load(
        program_type, name[:15].encode(), license_name.encode(), instructions, count, ctypes.byref(options)
    )
    if result < 0:
        refused = Refused(-result, os.strerror(-result), name)
        refused.log = log.value.decode(errors="replace")
        raise refused
    return int(result)


def link_btf_tracepoint(prog_fd: int) -> int:
    """Attach a program to the BTF tracepoint that it was loaded for; an fd of the link."""
    return _checked(_lib().bpf_raw_tracepoint_open(None, prog_fd), "bpf_raw_tracepoint_open")


def may_read_kernel_memory() -> bool:
    """Whether programs may read any kernel memory; lockdown=confidentiality forbids it."""
    return bool(_lib().libbpf_probe_bpf_helper(_BPF_PROG_TYPE_TRACEPOINT, _BPF_FUNC_PROBE_READ_KERNEL_STR, None) == 1)


class _ProgInfo(ctypes.Structure):  # struct bpf_prog_info, up to the last field that is read
    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("unread", ctypes.c_uint8 * 184),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
    )


@dataclass(frozen=True)
class ProgInfo:
    """Statistics of a loaded program. The kernel counts run time and runs while kernel.bpf_stats_enabled is 1."""

    run_time_ns: int
    runs: int
    misses: int  # runs that the kernel skipped; counted since Linux 6.7


def prog_info(fd: int) -> ProgInfo:
    """Statistics of a loaded program."""
    info = _ProgInfo()
    _info(fd, info)
    return ProgInfo(info.run_time_ns, info.run_cnt, info.recursion_misses)


class _LinkInfo(ctypes.Structure):  # struct bpf_link_info, up to the last field that is read
    _fields_ = (("type", c_uint32), ("id", c_uint32), ("prog_id", c_uint32))


def link_attached(fd: int) -> bool:
    """Whether the link still holds a program."""
    info = _LinkInfo()
    _info(fd, info)
    return bool(info.prog_id)


def _info(fd: int, info: ctypes.Structure) -> None:
    size = c_uint32(ctypes.sizeof(info))
    _checked(_lib().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "bpf_obj_get_info_by_fd")


def struct_offsets(*structs: str) -> dict[str, dict[str, int]]:
    """Byte offset of each named field of kernel structs; their size under `""`. Source: the running kernel's BTF.

    Fields of anonymous structs and unions belong to the enclosing struct, as in C.
    """
    lib = _lib()

    def collect(type_id: int, base: int, offsets: dict[str, int]) -> int:
        address = lib.btf__type_by_id(btf, type_id)
        _, info, size = (c_uint32 * 3).from_address(address)  # struct btf_type
        if info >> 24 & 0x1F not in (_BTF_STRUCT, _BTF_UNION):
            return size  # an unnamed bit-field: padding
        count, kind_flag = info & 0xFFFF, info >> 31
        for name_at, member_type, offset in ((c_uint32 * 3) * count).from_address(address + 12):  # struct btf_member
            bits = offset & 0xFFFFFF if kind_flag else offset  # the upper bits are the width of a bit-field
            name = lib.btf__name_by_offset(btf, name_at).decode()
            if name:
                offsets[name] = base + bits // 8
            else:
                collect(member_type, base + bits // 8, offsets)
        return size

    found: dict[str, dict[str, int]] = {}
    with _vmlinux_btf() as btf:
        for struct in structs:
            type_id = _checked(lib.btf__find_by_name_kind(btf, struct.encode(), _BTF_STRUCT), f"struct {struct}")
            found[struct] = {}
            found[struct][""] = collect(type_id, 0, found[struct])
    return found


@contextmanager
def _vmlinux_btf() -> Iterator[int]:
    """The running kernel's BTF."""
    btf = _lib().btf__load_vmlinux_btf()
    if not btf:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "/sys/kernel/btf/vmlinux")
    try:
        yield btf
    finally:
        _lib().btf__free(btf)


@cache
def rdonly_cast_ids() -> tuple[int, int, int] | None:
    """BTF ids of bpf_rdonly_cast and of the structs kernel_siginfo and k_sigaction; None before Linux 6.2."""
    with _vmlinux_btf() as btf:
        function = _lib().btf__find_by_name_kind(btf, b"bpf_rdonly_cast", _BTF_FUNCTION)
        siginfo, action = (
            _lib().btf__find_by_name_kind(btf, name, _BTF_STRUCT) for name in (b"kernel_siginfo", b"k_sigaction")
        )
    return (function, siginfo, action) if min(function, siginfo, action) > 0 else None
