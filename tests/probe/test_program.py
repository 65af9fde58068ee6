"""The probe's settings: macros, layout, hash."""

import dataclasses
import errno
import re
import struct
from pathlib import Path

import pytest

from killsnoopd import names
from killsnoopd.probe import program
from killsnoopd.probe.hooks import HOOKS, PROGRAMS
from killsnoopd.probe.program import Layout, layout_hash, probe_hash, relocated
from killsnoopd.settings import RULES_MAX, Rule, Settings

WAYS = {hook.program: hook.ways[0] for hook in HOOKS}


def test_macros():
    """Every number that the C code gets, for one set of settings."""
    settings = Settings(
        self_signals=True, max_series=7, ring_bytes=65536, excluded=frozenset({0, 9, 64, 65}), rate=100, burst=11,
        grace_s=3, series_ttl_s=60, rules=(Rule(frozenset(), uid=1),) * 2,
    )  # fmt: skip
    assert program.macros(settings, cpus=4, page_bytes=4096) == {
        "CPUS": 4,
        "PAGE_SIZE": 4096,
        "SERIES_MAX": 7,
        "DEATHS_MAX": 2000,
        "RING_PAGES": 16,
        "EXCLUDE_LOW": 1 | 1 << 9,
        "EXCLUDE_HIGH": 0b11,
        "RULES": 2,
        "CMDLINE": 1,
        "EVENT_INTERVAL_NS": 10_000_000,
        "EVENT_BURST_NS": 100_000_000,
        "FATAL_LOW": 0xFFFFFFFF_F701FFFE & ~(1 << 22 | 1 << 23 | 1 << 28)
        | 1 << 16
        | 1 << 24
        | 1 << 25
        | 1 << 26
        | 1 << 27,
        "FATAL_HIGH": 1,
        "TTL_NS": 60_000_000_000,
        "GRACE_NS": 3_000_000_000,
        "SELF_SIGNALS": 1,
    }


def test_no_rate_is_no_limit():
    """Rate 0 compiles the limiter out."""
    assert program.macros(Settings(rate=0), 1, 4096)["EVENT_INTERVAL_NS"] == 0


def another(value):
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value + 1
    if isinstance(value, str):
        return value + "?"
    if isinstance(value, tuple):
        return value[1:] if value else (Rule(frozenset({9}), b"a"),)
    return value ^ {9}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_every_setting_is_in_the_hash(name):
    """A daemon never opens a probe with other settings."""
    changed = dataclasses.replace(Settings(), **{name: another(getattr(Settings(), name))})
    assert probe_hash(changed) != probe_hash(Settings())


def test_every_rule_is_in_the_hash():
    """Of two sets of rules that differ in one name, uid or signal."""
    rules = [
        Rule(frozenset({1}), b"a"),
        Rule(frozenset({2}), b"a"),
        Rule(frozenset({1}), b"b"),
        Rule(frozenset({1}), uid=7),
    ]
    assert len({probe_hash(Settings(rules=(rule,))) for rule in rules}) == len(rules)


def test_rules():
    """Signals, name and uid, each with a mask; unused elements match nothing."""
    name, whole = b"a".ljust(16, b"\0"), b"x" * 15 + b"\0"
    settings = Settings(
        rules=(Rule(frozenset({0, 65}), b"a"), Rule(frozenset({9}), whole[:15], 7), Rule(frozenset(), uid=0))
    )
    assert [struct.unpack("=QQ16s16sII", rule) for rule in program.rules(settings)] == [
        (1, 0b10, name, b"\xff\xff".ljust(16, b"\0"), 0, 0),
        (1 << 9, 0, whole, b"\xff" * 16, 7, 0xFFFFFFFF),
        (0, 0, bytes(16), bytes(16), 0, 0xFFFFFFFF),
        *[(0, 0, bytes(16), bytes(16), 0, 0)] * 13,
    ]
    header = program.MAPS_HEADER.read_text()
    assert re.search(r"#define RULES_MAX (\d+)", header)[1] == str(RULES_MAX)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"max_series": 1}, False),
        ({"ring_bytes": 4096}, False),
        ({"rate": 1}, True),
        ({"rules": (Rule(frozenset({9}), b"a"),)}, True),
        ({"series_ttl_s": 1}, True),
        ({"syscalls": ("kill",)}, True),
        ({"attach": "fexit"}, True),
    ],
    ids=str,
)
def test_what_a_new_version_can_take_over(change, same):
    """Settings that shape the maps start at zero; the others keep the counts."""
    assert (layout_hash(dataclasses.replace(Settings(), **change), WAYS) == layout_hash(Settings(), WAYS)) == same


def test_another_way_of_attaching_starts_at_zero():
    """A program array takes programs of one type."""
    assert layout_hash(Settings(), WAYS | {"sys_exit": "kprobe"}) != layout_hash(Settings(), WAYS)
    assert layout_hash(Settings(), dict(reversed(WAYS.items()))) == layout_hash(Settings(), WAYS)
    assert layout_hash(Settings(), WAYS | {"out_of_memory": "fentry"}) == layout_hash(Settings(), WAYS)


def test_a_comment_does_not_change_the_layout(tmp_path, monkeypatch):
    """An edited comment must not reset a user's counters; a changed field must."""
    before = layout_hash(Settings(), WAYS)
    text = program.MAPS_HEADER.read_text()
    edited = tmp_path / "maps.h"
    monkeypatch.setattr(program, "MAPS_HEADER", edited)
    edited.write_text("/* Another comment. */\n" + text.replace("/* 0, or -errno */", "  /* errno */"))
    assert layout_hash(Settings(), WAYS) == before
    edited.write_text(text.replace("u32 sig;", "u64 sig;", 1))
    assert layout_hash(Settings(), WAYS) != before


def test_the_source_is_in_the_hash(tmp_path, monkeypatch):
    """A new version of the probe gets a new name."""
    before = probe_hash(Settings())
    (tmp_path / "a.bpf.c").write_text("int x;")
    monkeypatch.setattr(program, "BPF_DIR", tmp_path)
    assert probe_hash(Settings()) not in (before, "")


def test_the_source_is_one_text_whose_lines_keep_their_names():
    """clang's messages name file and line of the source. The text has every .c file, and no #include of one."""
    told, file, number = {}, program.MAIN.name, 0
    for line in program.source().splitlines():
        number += 1
        if marker := re.fullmatch(r'#line (\d+) "(.+)"', line):
            file, number = marker[2], int(marker[1]) - 1
        else:
            told.setdefault(file, {})[number] = line
    for path in program.BPF_DIR.glob("*.c"):
        lines = enumerate(path.read_text().splitlines(), 1)
        assert told.pop(path.name) == {n: line for n, line in lines if not re.match(r'#include ".+\.c"', line)}
    assert told == {}


def test_layout_is_that_of_the_source():
    """Constants in both C and Python are equal."""
    source = program.MAPS_HEADER.read_text() + program.source()
    assert int(re.search(r"#define SIGNALS (\d+)", source)[1]) == len(names.SIGNALS)
    assert int(re.search(r"#define INVALID (\d+)", source)[1]) == names.INVALID
    assert int(re.search(r"#define RESULTS (\d+)", source)[1]) == len(program.RESULTS)

    def enum(name, text=source):
        body = re.search(rf"enum {name} \{{(.*?)\}};", text, re.S)[1]
        return [item.lower() for item in re.findall(r"\b([A-Z][A-Z_]+)\b(?: =|,| \}|\s*$| /\*)", body)]

    assert enum("event_status") == [*program.PROBE_STATUSES, "event_statuses"]
    assert enum("program") == [*PROGRAMS, "programs"]
    origins = [*names.ORIGINS, "origins", *names.DEATH_ORIGINS[len(names.ORIGINS) :], "death_origins"]
    assert list(dict.fromkeys(enum("origin"))) == origins
    assert enum("outcome") == [*names.OUTCOMES, "outcomes"]
    assert len(enum("kind")) - 1 == program.KINDS
    assert enum("slot_state") == [*program.SLOT_STATE, "slot_state"]
    registers = (program.BPF_DIR / "registers.h").read_text()
    assert enum("call", registers) == [*names.SYSCALLS, "write", "ptrace_call", "ioctl_call", "other_call"]
    entries_and_workers = {name for program_name in PROGRAMS for name in (program_name, f"on_{program_name}")}
    assert entries_and_workers == set(re.findall(r"^int (\w+)\(", source, re.M))
    maps = re.findall(r"^BPF_(?:F_TABLE|TABLE|RINGBUF_OUTPUT|PROG_ARRAY)\((.*)\);", source, re.M)
    named = [re.split(", *", of_map)[3 if of_map.startswith('"') else 0] for of_map in maps]
    assert sorted(named) == sorted((*program.DAEMON_MAPS, *program.PROBE_MAPS))


def test_cells_are_where_the_probe_counts():
    """Layout has the numbers of enum cell, each part ends where the next begins, and a row is whole cache lines."""
    header = re.sub(r"/\*.*?\*/", "", program.MAPS_HEADER.read_text(), flags=re.S)
    layout = Layout(cpus=2, series_max=10, deaths_max=5)
    cells = {
        "SERIES_MAX": layout.series_max, "DEATHS_MAX": layout.deaths_max, "SIGNALS": len(names.SIGNALS), "RESULTS": len(program.RESULTS),
        "ORIGINS": len(names.ORIGINS), "DEATH_ORIGINS": len(names.DEATH_ORIGINS), "OUTCOMES": len(names.OUTCOMES), "KINDS": program.KINDS,
        "EVENT_STATUSES": len(program.PROBE_STATUSES), "PROGRAMS": len(PROGRAMS),
    }  # fmt: skip
    for name, value in re.findall(r"^#define (SLOTS|OVERFLOWS) (.*)$", header, re.M):
        cells[name] = eval(value, {}, cells)
    constants = len(cells)
    for name, value in re.findall(r"(\w+)(?: = ([^,]+))?,", re.search(r"enum cell \{(.*?)\}", header, re.S)[1]):
        cells[name] = eval(value, {}, cells) if value else list(cells.values())[-1] + 1
    in_the_probe = list(cells.items())[constants:]
    assert in_the_probe[0] == ("SERIES", 0)
    assert [number for _, number in in_the_probe] == sorted({number for _, number in in_the_probe})
    for name, number in in_the_probe[1:-1]:
        assert getattr(layout, name.lower()) == number, name
    overflow = {**cells, "layout": layout}
    assert eval("layout.overflow_deaths == OVERFLOW + SIGNALS * RESULTS", {}, overflow)
    assert eval("layout.aged_deaths == AGED + SIGNALS * RESULTS", {}, overflow)
    assert layout.row == -(-cells["CELLS"] // 8) * 8


def test_results_are_numbered_as_in_the_probe():
    """overflow_result() returns the place of each result in RESULTS."""
    body = re.search(r"overflow_result\(s32 res\)\n\{(.*?)\n\}", program.source(), re.S)[1]
    cases = {int(res): int(number) for res, number in re.findall(r"case (-?\d+): return (\d+);", body)}
    found = {number: names.result_name(res) for res, number in cases.items()}
    found[int(re.search(r"default: return (\d+);", body)[1])] = "(other)"
    assert tuple(found[number] for number in range(len(found))) == program.RESULTS
    told = re.findall(r"case -(\d+): .*/\* (E\w+) \*/", body)
    assert [errno.errorcode[int(number)] for number, _ in told] == [name for _, name in told]


@pytest.mark.parametrize(("text", "cpus"), [("0\n", 1), ("0-1\n", 2), ("0-127\n", 128), ("0,2-5\n", 6)])
def test_possible_cpus(text, cpus, tmp_path):
    """The highest CPU number plus one, even if numbers between are missing."""
    path = Path(tmp_path / "possible")
    path.write_text(text)
    assert program.possible_cpus(path) == cpus


def test_ring_capacity():
    """Half of a default ring holds a uid's whole burst; a record with its names is mostly 400 bytes long."""
    header_bytes = 8  # header of each record in a BPF ring buffer
    assert Settings().ring_bytes // (400 + header_bytes) > 2 * Settings().burst


def test_relocated():
    """Maps are replaced by fd, and the placeholder by a call of the kernel's function; nothing else changes."""

    def instruction(opcode, registers, number):
        return struct.pack("=BBhi", opcode, registers, 0, number)

    load, rest, call, cast = (
        instruction(0x18, 0x12, 7),  # r2 = map 7
        instruction(0, 0, 0),
        instruction(0x85, 0, 12),  # a helper
        instruction(0x85, 0, 0x6B73),
    )
    plain = instruction(0x18, 0x02, 7)  # r2 = 7
    program = load + rest + call + cast + plain + rest
    assert relocated(program, {7: 70}, 1234) == (
        instruction(0x18, 0x12, 70) + rest + call + instruction(0x85, 0x20, 1234) + plain + rest
    )
