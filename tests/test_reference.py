"""docs/reference.md and docs/metrics.md list exactly the metrics, fields and exit codes of the code."""

import json
import re
import subprocess
from pathlib import Path

from page_metrics import every_metric
from servers import tool

from killsnoopd import failure, names
from killsnoopd.events import fields
from killsnoopd.probe import program
from killsnoopd.probe.hooks import HOOKS, PROGRAMS
from killsnoopd.query import command

TOP = Path(__file__).parent.parent
REFERENCE = (TOP / "docs/reference.md").read_text()
METRICS = (TOP / "docs/metrics.md").read_text()


def rows(section):
    """The cells of the section's tables, one list per row, without the headings."""
    text = METRICS if section == "Metrics" else REFERENCE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines[1:]]


def words(text):
    return re.findall(r"`([^`]+)`", text)


def test_metrics_and_their_labels():
    """For a page with every metric."""
    documented = {words(name)[0]: set(words(labels)) for name, labels, *_ in rows("Metrics")}
    assert documented == {name: set(labels) for name, labels in every_metric().items()}


def test_bounds():
    """The most series of a family are those of its cells in the probe."""
    layout = program.Layout(1, 0, 0)
    found = {
        words(row[0])[0]: int(row[3].rpartition("+")[2].replace(",", ""))
        for row in rows("Metrics")
        if row[3][-1:].isdigit()
    }
    cells = {
        "killsnoop_signals_total": layout.overflow_deaths - layout.overflow,
        "killsnoop_signals_aged_total": layout.aged_deaths - layout.aged,
        "killsnoop_deaths_total": layout.aged - layout.overflow_deaths,
        "killsnoop_deaths_aged_total": layout.deliveries - layout.aged_deaths,
        "killsnoop_deliveries_total": layout.exits - layout.deliveries,
        "killsnoop_exits_total": layout.escalations - layout.exits,
        "killsnoop_probe_attached": len(HOOKS),
        "killsnoop_probe_runs_total": len(PROGRAMS),
        "killsnoop_events_total": len({*program.PROBE_STATUSES, *program.DAEMON_STATUSES} - {"emitted"}),
    }
    assert {name: found[name] for name in cells} == cells


def test_every_family_has_a_query(tmp_path):
    """It asks for that family, by labels that its families have, and Prometheus can read it."""
    labels = every_metric()
    rules = []
    for name, *_, example in rows("Metrics"):
        (query,) = words(example)
        assert re.search(rf"\b{words(name)[0]}\b", query)
        found = set(re.findall(r"killsnoop_\w+", query))
        known = {"instance", *(label for family in found for label in labels[family])}
        used = {*re.findall(r"(\w+)[!=]~?\"", query)}
        used |= {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
        assert used <= known
        rules.append({"record": f"example{len(rules)}", "expr": query})
    assert len(rules) == len(labels)
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "examples", "rules": rules}]}))  # JSON is YAML
    said = subprocess.run([tool("promtool"), "check", "rules", file], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


def test_statuses_of_events():
    """Those of the probe and those of the daemon."""
    (meaning,) = [row[2] for row in rows("Metrics") if row[0] == "`killsnoop_events_total`"]
    counted = {*program.PROBE_STATUSES, *program.DAEMON_STATUSES} - {"emitted"}
    assert set(words(meaning)) == counted


def test_values_of_labels():
    """Origins, and the outcomes of a delivery."""
    (origins,) = re.findall(r"^- `origin`: (.*(?:\n  .*)*)", METRICS, re.M)
    (outcomes,) = re.findall(r"^- `outcome` of a delivery[^:]*: (.*(?:\n  .*)*)", METRICS, re.M)
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
