"""--check: a line for each requirement; tests/kernel/test_refusals.py compares its exit codes with those of a start."""

import os
import subprocess
import sys

import pytest

from killsnoopd import check, cli
from killsnoopd.check import Requirement, Unknown
from killsnoopd.failure import Exit, Failure


def look(outcome):
    def found():
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return found


NO_BTF, NO_BCC = Failure(Exit.UNAVAILABLE, "no BTF: do this"), Failure(Exit.CONFIG, "no bcc: do that")


@pytest.mark.parametrize(
    ("outcomes", "lines", "code"),
    [
        ([("a", "x")], ["found    a: x"], Exit.OK),
        ([("a", NO_BTF, "no page")], ["missing  a: no BTF: do this. Without it: no page"], Exit.UNAVAILABLE),
        ([("a", NO_BTF, "no page", False)], ["missing  a: no BTF: do this. Without it: no page"], Exit.OK),
        ([("a", Unknown("why"))], ["unknown  a: why"], Exit.OK),
        (
            [("a", NO_BTF, "w", False), ("b", NO_BCC, "x"), ("c", "y"), ("d", NO_BTF, "z")],
            [
                "missing  a: no BTF: do this. Without it: w", "missing  b: no bcc: do that. Without it: x",
                "found    c: y", "missing  d: no BTF: do this. Without it: z",
            ],
            Exit.CONFIG,
        ),
    ],
)  # fmt: skip
def test_lines_and_exit_code(outcomes, lines, code, monkeypatch, capsys):
    """The exit code is that of the first requirement that a start would miss."""
    wanted = [Requirement(name, look(outcome), *more) for name, outcome, *more in outcomes]
    monkeypatch.setattr(check, "requirements", lambda config, argv: wanted)
    monkeypatch.setattr(check.privileges, "set_process_name", lambda name: None)
    assert check.main([]) == code
    assert capsys.readouterr().out.splitlines() == lines


def names(*flags):
    return [requirement.name for requirement in check.requirements(cli.parse(list(flags)), [])]


def test_what_the_flags_ask_for():
    """Only what a start with these flags needs."""
    assert {"PyYAML", "--web.listen-address", "capabilities", "hooks", "BTF", "bcc", "probe"} <= {*names()}
    assert "--web.listen-address" not in names("--web.systemd-socket")
    assert "PyYAML" not in names("--web.config.file=x")
    pinned = names("--probe.pin=/sys/fs/bpf/x")
    assert "pinned probe" in pinned
    assert not {"capabilities", "bcc", "probe", "BTF"} & {*pinned}


@pytest.mark.parametrize("missing", ["h11", "prometheus_client", "systemd"])
def test_a_library_that_is_missing(missing):
    """--check needs none of the libraries that it looks for, and goes on without them."""
    code = f"import sys; sys.modules['{missing}'] = None; from killsnoopd.entry import daemon; sys.exit(daemon())"
    command = [sys.executable, "-c", code, "--check", "--probe.pin=/none", "--web.listen-address=127.0.0.1:0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stderr) == (Exit.CONFIG, "")
    assert f"\nmissing  {missing}: {missing} is missing for {os.path.normpath(sys.executable)} (" in result.stdout
    assert "\nmissing  pinned probe: no probe with these settings is pinned at /none/" in result.stdout


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("[none] integrity confidentiality\n", "allowed"),
        ("none [integrity] confidentiality\n", "allowed"),
        ("none integrity [confidentiality]\n", "the kernel is locked down (lockdown=confidentiality)"),
        (None, "only root can tell: run killsnoopd --check as root"),
    ],
)
def test_lockdown_is_seen_without_privilege(tmp_path, monkeypatch, file, found):
    """Anybody can read the kernel's file; where there is none, a trial needs capabilities."""
    path = tmp_path / "lockdown"
    if file:
        path.write_text(file)
    monkeypatch.setattr(check, "_LOCKDOWN", path)

    def refuse():
        raise Failure(Exit.NOPERM, "no")

    monkeypatch.setattr(check.loader, "check_capabilities", refuse)
    try:
        said = check._kernel_memory()
    except (Unknown, Failure) as error:
        said = str(error)
    assert said == found
