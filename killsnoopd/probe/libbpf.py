"""Typed bindings of the libbpf 1.x functions that the package uses. Errors raise OSError.

Source: libbpf's bpf.h, btf.h and libbpf.h. All but those of the ring buffer are thin wrappers of bpf(2) commands.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from killsnoopd.failure import Exit, Failure

# enum bpf_attach_type
_BPF_TRACE_RAW_TP, _BPF_TRACE_FENTRY, _BPF_TRACE_FEXIT = 23, 24, 25
_BPF_PERF_EVENT, _BPF_TRACE_KPROBE_MULTI = 41, 42
_BPF_F_KPROBE_MULTI_RETURN = 1
_BPF_PROG_TYPE_KPROBE, _BPF_PROG_TYPE_TRACEPOINT, _BPF_PROG_TYPE_TRACING = 2, 5, 26  # enum bpf_prog_type
_BPF_MAP_TYPE_ARRAY = 2  # enum bpf_map_type
_BPF_FUNC_PROBE_READ_KERNEL_STR = 115  # enum bpf_func_id
_BTF_POINTER, _BTF_STRUCT, _BTF_UNION, _BTF_ENUM, _BTF_TYPEDEF, _BTF_FUNCTION = 2, 4, 5, 6, 8, 12  # BTF_KIND_*

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "bpf_obj_pin": (c_int, [c_int, c_char_p]),
    "bpf_obj_get": (c_int, [c_char_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_freeze": (c_int, [c_int]),
    "bpf_map_create": (c_int, [c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_link_create": (c_int, [c_int, c_int, c_int, c_void_p]),
    "bpf_prog_load": (c_int, [c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p]),
    "bpf_raw_tracepoint_open": (c_int, [c_char_p, c_int]),
    "libbpf_probe_bpf_helper": (c_int, [c_int, c_int, c_void_p]),
    "libbpf_probe_bpf_map_type": (c_int, [c_int, c_void_p]),
    "libbpf_version_string": (c_char_p, []),
    "btf__load_vmlinux_btf": (c_void_p, []),
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
            Exit.CONFIG,
            f"libbpf.so.1 is missing ({error}): install libbpf1 (Debian, Ubuntu) or libbpf (Fedora), 1.0 or later",
        ) from None
    for name, (restype, argtypes) in _SIGNATURES.items():
        try:
            function = getattr(lib, name)
        except AttributeError as error:
            raise Failure(Exit.CONFIG, f"libbpf.so.1 is too old ({error}): install libbpf 1.0 or later") from None
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


def create_counter() -> int:
    """An fd of an array with one cell of 8 bytes; the caller closes it."""
    return _checked(_lib().bpf_map_create(_BPF_MAP_TYPE_ARRAY, b"trial", 4, 8, 1, None), "bpf_map_create")


def read_counter(fd: int) -> int:
    """The cell of such an array."""
    key, value = c_uint32(0), c_uint64(0)
    _checked(_lib().bpf_map_lookup_elem(fd, ctypes.byref(key), ctypes.byref(value)), "bpf_map_lookup_elem")
    return value.value


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


@dataclass(frozen=True)
class ProgramType:
    """What a program is loaded for: the verifier checks its arguments accordingly."""

    program_type: int
    attach_type: int = 0
    btf_id: int = 0


TRACEPOINT = ProgramType(_BPF_PROG_TYPE_TRACEPOINT)
"""Any classic tracepoint."""
KPROBE_MULTI = ProgramType(_BPF_PROG_TYPE_KPROBE, _BPF_TRACE_KPROBE_MULTI)
"""Entries or returns of any kernel functions. Linux 5.18, with CONFIG_FPROBE."""


def btf_tracepoint(name: str) -> ProgramType:
    """A BTF tracepoint, which passes typed pointers (`tp_btf`). Raises OSError."""
    return ProgramType(_BPF_PROG_TYPE_TRACING, _BPF_TRACE_RAW_TP, _btf_id(f"btf_trace_{name}", _BTF_TYPEDEF))


def function_exit(function: str) -> ProgramType:
    """The exits of a kernel function (`fexit`). Raises OSError."""
    return ProgramType(_BPF_PROG_TYPE_TRACING, _BPF_TRACE_FEXIT, _btf_id(function, _BTF_FUNCTION))


def function_entry(function: str) -> ProgramType:
    """The entries of a kernel function (`fentry`). Raises OSError."""
    return ProgramType(_BPF_PROG_TYPE_TRACING, _BPF_TRACE_FENTRY, _btf_id(function, _BTF_FUNCTION))


class Refused(OSError):
    """The verifier rejected a program; `log` is its output."""

    log = ""


def load_program(name: str, kind: ProgramType, instructions: bytes, license_name: str) -> int:
    """Load a program; its fd. Raises Refused if the verifier rejects it."""
    log = ctypes.create_string_buffer(1 << 20)
    options = _ProgLoadOpts(sz=ctypes.sizeof(_ProgLoadOpts), log_size=len(log), log_buf=ctypes.addressof(log))
    options.expected_attach_type, options.attach_btf_id = kind.attach_type, kind.btf_id
    count = len(instructions) // 8
    result = _lib().bpf_prog_load(
        kind.program_type, name[:15].encode(), license_name.encode(), instructions, count, ctypes.byref(options)
    )
    if result < 0:
        refused = Refused(-result, os.strerror(-result), name)
        refused.log = log.value.decode(errors="replace")
        raise refused
    return int(result)


def link_tracing(prog_fd: int) -> int:
    """Attach a program to the BTF tracepoint or function that it was loaded for; an fd of the link."""
    return _checked(_lib().bpf_raw_tracepoint_open(None, prog_fd), "bpf_raw_tracepoint_open")


class _LinkCreateOpts(ctypes.Structure):  # struct bpf_link_create_opts of libbpf 1.0, with its union's kprobe_multi
    _fields_ = (
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", c_void_p),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
        ("kprobe_flags", c_uint32),
        ("count", c_uint32),
        ("symbols", ctypes.POINTER(c_char_p)),
        ("addresses", c_void_p),
        ("cookies", c_void_p),
    )


def link_kprobe_multi(prog_fd: int, functions: tuple[str, ...], at_return: bool) -> int:
    """Attach a program to the entries or returns of kernel functions, to all or none; an fd of the link."""
    symbols = (c_char_p * len(functions))(*(function.encode() for function in functions))
    options = _LinkCreateOpts(sz=ctypes.sizeof(_LinkCreateOpts), count=len(functions), symbols=symbols)
    options.kprobe_flags = _BPF_F_KPROBE_MULTI_RETURN if at_return else 0
    result = _lib().bpf_link_create(prog_fd, 0, _BPF_TRACE_KPROBE_MULTI, ctypes.byref(options))
    return _checked(result, "bpf_link_create")


def may_read_kernel_memory() -> bool:
    """Whether programs may read any kernel memory; lockdown=confidentiality forbids it."""
    return has_helper(_BPF_FUNC_PROBE_READ_KERNEL_STR)


# r1 = *(u64 *)(r1 + 8); if r1 == 0 goto +1; r1 = *(u32 *)(r1 + 8); r0 = 0; exit
_READ_CODE = bytes.fromhex("7911080000000000 1501010000000000 6111080000000000 b700000000000000 9500000000000000")


def has_typed_siginfo() -> bool:
    """Whether programs at signal_generate may read its siginfo by plain loads. To some kernels it is a number."""
    try:
        os.close(load_program("siginfo", btf_tracepoint("signal_generate"), _READ_CODE, "GPL"))
    except OSError:
        return False
    return True


def has_helper(number: int) -> bool:
    """Whether programs of classic tracepoints may call this helper (enum bpf_func_id)."""
    return bool(_lib().libbpf_probe_bpf_helper(_BPF_PROG_TYPE_TRACEPOINT, number, None) == 1)


def has_map_type(number: int) -> bool:
    """Whether the kernel has this type of map (enum bpf_map_type)."""
    return bool(_lib().libbpf_probe_bpf_map_type(number, None) == 1)


class _ProgInfo(ctypes.Structure):  # struct bpf_prog_info, up to the last field that is read
    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("unread", ctypes.c_uint8 * 32),
        ("load_time", c_uint64),
        ("unread_too", ctypes.c_uint8 * 144),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
    )


@dataclass(frozen=True)
class ProgInfo:
    """Statistics of a loaded program. The kernel counts run time and runs while kernel.bpf_stats_enabled is 1."""

    run_time_ns: int
    runs: int
    misses: int  # runs that the kernel skipped; counted since Linux 6.7 (fexit: 5.12)


def prog_info(fd: int) -> ProgInfo:
    """Statistics of a loaded program."""
    info = _ProgInfo()
    _info(fd, info)
    return ProgInfo(info.run_time_ns, info.run_cnt, info.recursion_misses)


def prog_load_ns(fd: int) -> int:
    """When a program was loaded: CLOCK_BOOTTIME."""
    info = _ProgInfo()
    _info(fd, info)
    return int(info.load_time)


class _LinkInfo(ctypes.Structure):  # struct bpf_link_info, up to the last field that is read
    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("addresses", c_uint64),  # this and the rest: of kprobe_multi
        ("count", c_uint32),
        ("flags", c_uint32),
        ("missed", c_uint64),
    )


def link_attached(fd: int) -> bool:
    """Whether the link still holds a program."""
    info = _LinkInfo()
    _info(fd, info)
    return bool(info.prog_id)


def kprobe_misses(fd: int) -> int:
    """Hits of a kprobe_multi link's functions that reached no program; counted since Linux 6.7."""
    info = _LinkInfo()
    _info(fd, info)
    return int(info.missed)


def _info(fd: int, info: ctypes.Structure) -> None:
    size = c_uint32(ctypes.sizeof(info))
    _checked(_lib().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "bpf_obj_get_info_by_fd")


def struct_offsets(*structs: str) -> dict[str, dict[str, int]]:
    """Byte offset of each named field of kernel structs; their size under `""`. Source: the running kernel's BTF.

    A struct that the kernel lacks has none. Fields of anonymous structs and unions belong to the enclosing struct, as
    in C.
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
    btf = vmlinux_btf()
    for name in structs:
        found[name] = {}
        with contextlib.suppress(OSError):
            found[name][""] = collect(_btf_id(name, _BTF_STRUCT), 0, found[name])
    return found


@cache
def vmlinux_btf() -> int:
    """The running kernel's BTF. It stays loaded: only the loader and its children use it. Raises Failure."""
    btf = _lib().btf__load_vmlinux_btf()
    if not btf:
        raise Failure(
            Exit.UNAVAILABLE,
            f"this kernel has no BTF ({os.strerror(ctypes.get_errno())}): use a kernel built with "
            "CONFIG_DEBUG_INFO_BTF and make /sys/kernel/btf/vmlinux readable",
        )
    return int(btf)


def _btf_id(name: str, kind: int) -> int:
    """Raises OSError if the kernel has no such type."""
    return _checked(_lib().btf__find_by_name_kind(vmlinux_btf(), name.encode(), kind), f"{name} in the kernel's BTF")


def has_function(name: str) -> bool:
    """Whether the kernel's BTF has this function."""
    return bool(_lib().btf__find_by_name_kind(vmlinux_btf(), name.encode(), _BTF_FUNCTION) > 0)


def has_name(name: str, path: Path = Path("/sys/kernel/btf/vmlinux")) -> bool:
    """Whether anything in the kernel's BTF has this name. Keeps nothing in memory: the daemon may ask, too."""
    header = struct.Struct("=HBBIIIII")  # struct btf_header
    with contextlib.suppress(OSError), path.open("rb") as file:
        *_, length, _types, _types_length, strings, strings_length = header.unpack(file.read(header.size))
        file.seek(length + strings)
        return b"\0%b\0" % name.encode() in file.read(strings_length)
    return False


def first_argument_is_pointer(tracepoint: str) -> bool:
    """Whether the first argument of a BTF tracepoint is a pointer, not a number. Raises OSError if there is none."""

    def words(type_id: int, count: int) -> list[int]:
        return list((c_uint32 * count).from_address(_lib().btf__type_by_id(vmlinux_btf(), type_id)))

    pointer = words(_btf_id(f"btf_trace_{tracepoint}", _BTF_TYPEDEF), 3)[2]  # struct btf_type: name, info, type
    function = words(pointer, 3)[2]
    # The first parameter is the tracepoint's own `void *`. struct btf_param: name, type.
    return words(words(function, 3 + 2 * 2)[6], 3)[1] >> 24 & 0x1F == _BTF_POINTER


def rdonly_cast_ids() -> tuple[int, int, int] | None:
    """BTF ids of bpf_rdonly_cast and of the structs kernel_siginfo and k_sigaction; None before Linux 6.2."""
    try:
        structs = _btf_id("kernel_siginfo", _BTF_STRUCT), _btf_id("k_sigaction", _BTF_STRUCT)
        return _btf_id("bpf_rdonly_cast", _BTF_FUNCTION), *structs
    except OSError:
        return None
