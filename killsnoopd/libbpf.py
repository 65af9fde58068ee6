"""The dozen functions of libbpf 1.x that are used, typed; errors are raised as OSError.

Source: libbpf's bpf.h, btf.h and libbpf.h. Each of them is a thin cover of a bpf(2) command, but for the ring buffer's.
"""

import ctypes
import os
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache

from killsnoopd.failure import Exit, Failure

_BPF_PERF_EVENT = 41  # enum bpf_attach_type
_STRUCT = 4  # BTF_KIND_STRUCT

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "bpf_obj_pin": (c_int, [c_int, c_char_p]),
    "bpf_obj_get": (c_int, [c_char_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_freeze": (c_int, [c_int]),
    "bpf_link_create": (c_int, [c_int, c_int, c_int, c_void_p]),
    "btf__load_vmlinux_btf": (c_void_p, []),
    "btf__free": (None, [c_void_p]),
    "btf__find_by_name_kind": (c_int, [c_void_p, c_char_p, c_uint32]),
    "btf__type_by_id": (c_void_p, [c_void_p, c_uint32]),
    "btf__name_by_offset": (c_char_p, [c_void_p, c_uint32]),
    "ring_buffer__new": (c_void_p, [c_int, c_void_p, c_void_p, c_void_p]),
    "ring_buffer__free": (None, [c_void_p]),
    "ring_buffer__epoll_fd": (c_int, [c_void_p]),
    "ring_buffer__consume": (c_int, [c_void_p]),
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
    lib.libbpf_set_print(None)  # errors are ours to report
    return lib


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result), what)
    return result


def obj_pin(fd: int, path: str) -> None:
    """Keep a kernel object alive under a name on bpffs."""
    _checked(_lib().bpf_obj_pin(fd, os.fsencode(path)), path)


def obj_get(path: str) -> int:
    """An fd of the kernel object that is pinned at `path`; the caller closes it."""
    return _checked(_lib().bpf_obj_get(os.fsencode(path)), path)


def map_freeze(fd: int) -> None:
    """From now on no user space program may write the map, root's neither; BPF programs may."""
    _checked(_lib().bpf_map_freeze(fd), "bpf_map_freeze")


def link_perf_event(prog_fd: int, perf_fd: int) -> int:
    """Attach a program to a perf event; an fd of the link, on whose life the attachment hangs. Linux 5.15."""
    return _checked(_lib().bpf_link_create(prog_fd, perf_fd, _BPF_PERF_EVENT, None), "bpf_link_create")


class _ProgInfo(ctypes.Structure):  # struct bpf_prog_info, up to what is read
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
    """What the kernel says of a loaded program. Run time and runs are counted while kernel.bpf_stats_enabled is 1."""

    run_time_ns: int
    runs: int
    misses: int  # times that the program should have run and did not; counted by Linux 6.7 and later


def prog_info(fd: int) -> ProgInfo:
    """What the kernel says of a loaded program."""
    info = _ProgInfo()
    _info(fd, info)
    return ProgInfo(info.run_time_ns, info.run_cnt, info.recursion_misses)


class _LinkInfo(ctypes.Structure):  # struct bpf_link_info, up to what is read
    _fields_ = (("type", c_uint32), ("id", c_uint32), ("prog_id", c_uint32))


def link_attached(fd: int) -> bool:
    """Whether the link still holds a program."""
    info = _LinkInfo()
    _info(fd, info)
    return bool(info.prog_id)


def _info(fd: int, info: ctypes.Structure) -> None:
    size = c_uint32(ctypes.sizeof(info))
    _checked(_lib().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "bpf_obj_get_info_by_fd")


def struct_offsets(struct: str) -> dict[str, int]:
    """Byte offset of each named field of a kernel struct, `""` its size; source: the running kernel's BTF."""
    lib = _lib()
    btf = lib.btf__load_vmlinux_btf()
    if not btf:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "/sys/kernel/btf/vmlinux")
    try:
        type_id = _checked(lib.btf__find_by_name_kind(btf, struct.encode(), _STRUCT), f"struct {struct}")
        address = lib.btf__type_by_id(btf, type_id)
        _, info, size = (c_uint32 * 3).from_address(address)  # struct btf_type
        count, kind_flag = info & 0xFFFF, info >> 31
        members = ((c_uint32 * 3) * count).from_address(address + 12)  # struct btf_member
        offsets = {}
        for name, _, offset in members:
            bits = offset & 0xFFFFFF if kind_flag else offset  # the rest is a bit field's width
            offsets[lib.btf__name_by_offset(btf, name).decode()] = bits // 8
        offsets[""] = size  # an unnamed union has no name either
        return offsets
    finally:
        lib.btf__free(btf)


_SampleCallback = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)


class RingBuffer:
    """The reader's end of a BPF ring buffer; one reader at a time."""

    def __init__(self, map_fd: int) -> None:
        self._on_record: Callable[[bytes], None]

        def callback(_context: object, data: int, size: int) -> int:
            self._on_record(ctypes.string_at(data, size))
            return 0

        self._callback = _SampleCallback(callback)  # kept: libbpf holds just the address
        self._ring = _lib().ring_buffer__new(map_fd, ctypes.cast(self._callback, c_void_p), None, None)
        if not self._ring:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "ring_buffer__new")
        self.epoll_fd: int = _lib().ring_buffer__epoll_fd(self._ring)

    def consume(self, on_record: Callable[[bytes], None]) -> int:
        """Hand over every record that is there; how many. `on_record` must not raise: ctypes would swallow it."""
        self._on_record = on_record
        return _checked(_lib().ring_buffer__consume(self._ring), "ring_buffer__consume")

    def close(self) -> None:
        """Unmap the buffer. What was not consumed stays in the map."""
        if self._ring:
            _lib().ring_buffer__free(self._ring)
            self._ring = None
