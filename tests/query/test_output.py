"""Standard output in any locale, and when it cannot be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from logged import death

COMMAND = [sys.executable, "-m", "killsnoopd.query.command"]


def killsnoop(*arguments, stdin, **environment):
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False,
        env={**os.environ, "TZ": "UTC", **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"LC_ALL": "C"}, r"\xd0\xaf"),
        ({"LC_ALL": "POSIX"}, r"\xd0\xaf"),
        ({"LC_ALL": "C.UTF-8"}, "Я"),
        ({"LC_ALL": "en_US.ISO-8859-1"}, r"\xd0\xaf"),
        ({"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "iso-8859-1"}, r"\xd0\xaf"),
    ],
)
def test_locales(latin_1, environment, name):
    """A name that the locale cannot show is escaped, also where it is only asked for."""
    events = json.dumps(death("Я", "7"))
    for arguments in (("-d", "-"), ("who", "Я", "-"), ("who", "7", "-"), ("top", "--by=target", "-")):
        found = killsnoop(*arguments, stdin=events, LOCPATH=str(latin_1), **environment)
        assert found.stderr == ""
        assert f" {name}" in found.stdout
    assert killsnoop("who", "Ж", "-", stdin=events, LOCPATH=str(latin_1), **environment).returncode == 1


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory):
    """A folder with a locale of ISO 8859-1; where it cannot be made, C takes its place."""
    folder = tmp_path_factory.mktemp("locales")
    made = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", folder / "en_US.ISO-8859-1"]
    subprocess.run(made, check=False, capture_output=True)
    return folder


@pytest.mark.parametrize("arguments", [["-d"], ["-d", "-o", "json"], ["who", "nginx"], ["top"]])
def test_output_that_cannot_be_written(tmp_path, arguments):
    """One line, and no word from Python when it ends."""
    events = tmp_path / "events.jsonl"
    events.write_text(json.dumps(death()) + "\n")
    command = [*COMMAND, *arguments, events]
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stderr) == (69, "killsnoop: cannot write the output: No space left on device\n")
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, "")
