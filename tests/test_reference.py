"""docs/reference.md lists exactly the metrics, fields and exit codes of the code."""

import re
from pathlib import Path

from page_metrics import every_metric

from killsnoopd import failure, names
from killsnoopd.events import fields
from killsnoopd.probe import program
from killsnoopd.query import command

TOP = Path(__file__).parent.parent
REFERENCE = (TOP / "docs/reference.md").read_text()


def rows(section):
    """The cells of the section's tables, one list per row, without the headings."""
    text = REFERENCE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines[1:]]


def words(text):
    return re.findall(r"`([^`]+)`", text)


def test_metrics_and_their_labels():
    """For a page with every metric."""
    documented = {words(name)[0]: set(words(labels)) for name, labels, _ in rows("Metrics")}
    assert documented == {name: set(labels) for name, labels in every_metric().items()}


def test_statuses_of_events():
    """Those of the probe and those of the daemon."""
    (meaning,) = [row[2] for row in rows("Metrics") if row[0] == "`killsnoop_events_total`"]
    counted = {*program.PROBE_STATUSES, *program.DAEMON_STATUSES} - {"emitted"}
    assert set(words(meaning)) == counted


def test_values_of_labels():
    """Origins, and the outcomes of a delivery."""
    (origins,) = re.findall(r"^- `origin`: (.*(?:\n  .*)*)", REFERENCE, re.M)
    (outcomes,) = re.findall(r"^- `outcome` of a delivery[^:]*: (.*(?:\n  .*)*)", REFERENCE, re.M)
    assert set(names.ORIGINS) <= set(words(origins))
    assert words(outcomes) == list(names.OUTCOMES)


def test_fields():
    """Every name that events.fields can log."""
    source = Path(fields.__file__).read_text()
    logged = set(re.findall(r'^ *(?:return \{)?"([A-Z_]+)"(?=:)', source, re.M)) | set(
        re.findall(r'"(KILLSNOOP_[A-Z_]+)":', source)
    )
    documented = [words(name)[0] for name, _ in rows("Journal fields")]
    assert len(documented) == len(set(documented))
    assert set(documented) == logged


def test_exit_codes():
    """Those of failure.Exit."""
    assert [int(code) for code, _ in rows("Exit codes")] == sorted(failure.Exit)


def test_exit_codes_of_the_command():
    """The same in --help, in the man page and here."""
    documented = [code for code, _ in rows("Exit codes of killsnoop")]
    told = command.table_parser().epilog.partition("exit codes:\n")[2]
    page = (TOP / "docs/killsnoop.8").read_text().partition(".SH EXIT STATUS\n")[2].partition(".SH")[0]
    assert documented == re.findall(r"^ *(\d+)  ", told, re.M) == re.findall(r"^\.TP\n(\d+)$", page, re.M)


def test_resident_memory():
    """Only README states the figure, and tests/kernel/test_powerless.py enforces it."""
    (allowed,) = re.findall(r"^RESIDENT_MB = (\d+)$", (TOP / "tests/kernel/test_powerless.py").read_text(), re.M)
    said = re.findall(r"(\d+) MB of\s+resident\s+memory", (TOP / "README.md").read_text())
    assert said == [allowed]
