"""Rules that merge names: what they match, and the name that is shown."""

import random
import re

import pytest

from killsnoopd import names
from killsnoopd.metrics import fold
from killsnoopd.settings import check_fold_rule


@pytest.mark.parametrize(
    ("rules", "comm", "shown"),
    [
        ([], b"worker-17", "worker-17"),
        (["worker-#"], b"worker-17", "worker-#"),
        (["worker-#"], b"worker-17\0\0\0\0\0\0\0", "worker-#"),
        (["worker-#"], b"worker-17b", "worker-17b"),  # the whole name must match
        (["worker-#"], b"worker-", "worker-"),
        (["worker-#"], b"worker-#", "worker-#"),  # a process with that name is merged too, so the sum is complete
        (["kworker/*"], b"kworker/u8:3", "kworker/*"),
        (["kworker/*"], b"kworker/", "kworker/*"),
        (["*-#-*"], b"pool-1-thread-7", "*-#-*"),
        (["*thread*#"], b"pool-1-thread-7", "*thread*#"),
        (["*"], b"", "*"),
        (["*"], b"a\nb", "*"),
        (["pool-*", "*"], b"pool-1", "pool-*"),  # the first rule that matches
        (["pool-*", "*"], b"pool-*", "pool-*"),
        (["runc:[#:INIT]", "*.*+?"], b"runc:[2:INIT]", "runc:[#:INIT]"),  # only * and # are special
        (["*.*"], b"python3", "python3"),
        (["\xe9*"], "\xe91".encode(), "\xe9*"),
        (["\udcff*"], b"\xff1", r"\xff*"),  # as Python reads the byte FF from a command line
        (["a\\*"], rb"a\1", r"a\\*"),
        (["numbers"], b"kworker/u8:3", "kworker/u#:#"),
        (["numbers"], b"tokio-runtime-w", "tokio-runtime-w"),
        (["kworker/*", "numbers"], b"kworker/u8:3", "kworker/*"),
        (["kworker/*", "numbers"], b"python3", "python#"),
        (["numbers"], b"\xff\n1", r"\xff\x0a#"),  # digits of an escape are not a number
        (["numbers"], "\u0663".encode(), "\u0663"),  # nor are digits of other scripts
    ],
)
def test_what_is_shown(rules, comm, shown):
    """The rule, or with `numbers` the name with each number replaced; escaped like all names."""
    assert fold.folder([check_fold_rule(rule) for rule in rules])(comm) == shown


@pytest.mark.parametrize("rule", ["", "worker", "Numbers"])
def test_what_is_no_rule(rule):
    """It would merge nothing."""
    with pytest.raises(ValueError, match=f"^'{rule}' is not a rule: write a name with \\* for any text"):
        check_fold_rule(rule)


def test_a_rule_matches_what_it_says():
    """Taking the first match of each part gives the same result as trying every match."""
    chance = random.Random(5)
    matches = 0
    for _ in range(20_000):
        rule = "".join(chance.choices("ab1*#", k=chance.randrange(1, 7)))
        name = "".join(chance.choices("ab12", k=chance.randrange(10)))
        every = "".join({"*": ".*", "#": "[0-9]+(?![0-9])"}.get(char, char) for char in rule)
        expected = bool(re.fullmatch(every, name))
        matches += expected
        assert bool(fold._pattern(rule).fullmatch(name)) == expected, (rule, name)
    assert matches > 1000


def test_no_name_is_slow_to_match():
    """Names chosen to make a regular expression backtrack: 20,000 in a few seconds at most."""
    rules = [
        "*a" * 100 + "*b",
        "*#" * 100 + "*b",
        "*#*" * 7 + "x",
        "*" * 200 + "b",
        "#*" * 8 + "x",
        "*1*a*#*" * 3 + "*b",
    ]
    show = fold.folder(rules)
    for number in range(20_000):
        comm = (b"aaaaaaaaaaaaaaa", b"1a1a1a1a1a1a1a1", b"111111111111111", b"aa11aa11aa11aa1")[number % 4]
        assert show(comm) == names.text(comm)
