"""The Grafana dashboard is generated and valid. tests/kernel/test_panels.py checks its numbers."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from page_metrics import every_metric

TOP = Path(__file__).parent.parent
SCRIPT, FILE = TOP / "scripts/dashboard.py", TOP / "deploy/grafana-dashboard.json"
BOARD = json.loads(FILE.read_text())
VARIABLES = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
PANELS = [inner for panel in BOARD["panels"] for inner in (panel, *panel.get("panels", [])) if inner["type"] != "row"]
SHOWN = [panel for panel in PANELS if panel["type"] not in ("text", "logs")]
QUERIES = {f"{panel['title']} {target['refId']}": target["expr"] for panel in SHOWN for target in panel["targets"]}
ANNOTATION = next(each["target"]["expr"] for each in BOARD["annotations"]["list"] if "target" in each)
every_query = pytest.mark.parametrize("query", [*QUERIES.values(), ANNOTATION], ids=[*QUERIES, "annotation"])
every_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
counted = runpy.run_path(str(SCRIPT))["counted"]


def test_it_is_what_the_script_makes():
    """`make dashboard` has been run since the last change."""
    assert (
        subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True).stdout == FILE.read_text()
    )


def test_panels_have_a_place_and_a_name_of_their_own():
    """Ids and titles are unique; no panel overlaps another or the edge."""
    everything = [inner for panel in BOARD["panels"] for inner in (panel, *panel.get("panels", []))]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    taken = set()
    for panel in everything:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_without_loki():
    """Only the collapsed row, which queries nothing until it is opened, needs Loki."""
    (row,) = [panel for panel in BOARD["panels"] if panel.get("collapsed")]
    inside = {panel["title"] for panel in row["panels"]}
    assert {panel["title"] for panel in PANELS if "loki_datasource" in json.dumps(panel)} == {"Events"} < inside
    assert "loki" not in json.dumps(BOARD["annotations"])
    assert not any(variable.get("datasource", {}).get("type") == "loki" for variable in VARIABLES.values())


def test_metrics_are_those_of_the_page():
    """The dashboard queries every metric of the page and no other, by labels that the metrics have."""
    known = every_metric()
    queries = [*QUERIES.values(), ANNOTATION]
    assert set(re.findall(r"killsnoop_\w+(?=\{)", " ".join(queries))) == set(known)
    for query in queries:
        found = re.findall(r"(killsnoop_\w+)\{([^{}]*)\}", query)
        of_scrape = {"job", "instance"}
        for name, matchers in found:
            assert set(re.findall(r"(\w+)=", matchers)) <= {*known[name], *of_scrape}, name
        made = set(re.findall(r'\), "(\w+)", "', query))  # made by label_join and label_replace
        grouped = {label for group in re.findall(r"(?:by|on) \(([^)]*)\)", query) for label in group.split(", ")}
        assert grouped <= of_scrape.union(made, *(known[name] for name, _ in found)), query


# The rules of Grafana's dashboard-linter (github.com/grafana/dashboard-linter, lint/rule_*.go), under its names.


def test_template_datasource_rule():
    """With several data sources, each is named and labelled by its type; Prometheus is first."""
    sources = [variable for variable in VARIABLES.values() if variable["type"] == "datasource"]
    assert [(each["query"], each["name"], each["label"]) for each in sources] == [
        ("prometheus", "prometheus_datasource", "Prometheus data source"),
        ("loki", "loki_datasource", "Loki data source"),
    ]


@pytest.mark.parametrize("name", ["job", "instance"])
def test_template_job_and_instance_rule(name):
    """Both variables can be set to several values; "all" means any value that is not empty."""
    variable = VARIABLES[name]
    assert (variable["type"], variable["label"], variable["multi"], variable["allValue"]) == (
        "query",
        name.title(),
        True,
        ".+",
    )
    assert variable["datasource"]["uid"] == "${prometheus_datasource}"


def test_template_on_time_change_reload_rule():
    """The options follow the time range."""
    assert {variable["refresh"] for variable in VARIABLES.values() if variable["type"] == "query"} == {2}


def test_template_label_promql_rule():
    """label_values() of a selector."""
    for variable in VARIABLES.values():
        if variable["type"] == "query":
            assert re.fullmatch(r"label_values\((\w+|\w*\{.+\}), [a-z]+\)", variable["query"])


@every_panel
def test_panel_rules(panel):
    """panel-datasource-rule, -title-description-rule, -no-targets-rule, -units-rule."""
    assert panel["title"] and panel["description"]
    if panel["type"] in ("stat", "timeseries", "bargauge", "state-timeline", "table"):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${prometheus_datasource}"}
        assert panel["targets"]
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    if panel["type"] in ("stat", "timeseries", "bargauge", "state-timeline"):
        assert panel["fieldConfig"]["defaults"]["unit"] in ("short", "cps", "percentunit", "s", "bytes", "bool_yes_no")


@every_query
def test_target_job_and_instance_rule(query):
    """Every selector filters by the chosen jobs and instances."""
    selectors = re.findall(r"\{[^{}]*\}", query)
    assert selectors
    assert all(selector.startswith('{job=~"$job", instance=~"$instance"') for selector in selectors)
    assert not re.search(r"\b(killsnoop|process|scrape)_\w+\b(?!\{)", query)


@every_query
def test_target_rate_interval_rule(query):
    """rate() and irate() use $__rate_interval; no query has a range of its own."""
    assert set(re.findall(r"(?<=[})])\[([^]]*)\]", query)) <= {"$__rate_interval", "$__range", "$__range:$__interval"}
    assert not re.search(r"\bi?rate\([^()]*\[(?!\$__rate_interval\])", query)


@every_query
def test_target_counter_agg_rule(query):
    """A counter is inside rate(), or inside increase() plus a term for new series, which increase() misses."""
    births = r"(last|count)_over_time\(killsnoop_\w+_total\{[^{}]*\}\[[^]]*\]\)"
    left = re.sub(r"\b(rate|increase)\(\w+\{[^{}]*\}\[[^]]*\]\)", "", query)
    if "increase(" in query:
        left = re.sub(births, "", left)
    if "timestamp(" not in query:  # asks when, not how much
        assert not re.search(r"_total\b", left)


def test_uneditable():
    """Changes belong in the script; a user who wants other panels saves a copy."""
    assert BOARD["editable"] is False


# counted(): how much a counter grew, including the first signal of a sender.


def promtool(tmp_path, page, series, expected):
    """Evaluate the sum over 10 minutes at minute 10 with promtool."""
    expression = counted("killsnoop_signals_total", 'signal="SIGKILL"', window="10m")
    expression = expression.replace("$job", ".+").replace("$instance", ".+")
    tests = {
        "rule_files": [],
        "tests": [{
            "interval": "1m",
            "input_series": [
                *({"series": f'killsnoop_events_pending{{job="k", instance="{host}"}}', "values": values} for host, values in page.items()),
                *({"series": f'killsnoop_signals_total{{job="k", signal="SIGKILL", instance="{host}", comm="{comm}"}}', "values": values}
                  for (host, comm), values in series.items()),
            ],
            "promql_expr_test": [{
                "expr": f"round(sum by (comm) ({expression}))", "eval_time": "10m",
                "exp_samples": [{"labels": f'{{comm="{comm}"}}', "value": value} for comm, value in expected.items()],
            }],
        }],
    }  # fmt: skip
    file = tmp_path / "test.yml"
    file.write_text(json.dumps(tests))  # JSON is YAML
    tool = os.environ.get("PROMTOOL", "promtool")
    result = subprocess.run([tool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


ALWAYS = {"a": "5x10"}


@pytest.mark.parametrize(
    ("page", "series", "expected"),
    [
        pytest.param(ALWAYS, {("a", "bash"): "_x4 1x5"}, {"bash": 1}, id="born at 1, and no more"),
        pytest.param(ALWAYS, {("a", "bash"): "_x9 1"}, {"bash": 1}, id="born at the last scrape"),
        pytest.param(ALWAYS, {("a", "bash"): "_x4 3 3 5 5 6 6"}, {"bash": 6}, id="born at 3, then more"),
        pytest.param(ALWAYS, {("a", "bash"): "_x4 1x5", ("a", "sh"): "_x4 2x5"}, {"bash": 1, "sh": 2}, id="two senders at once"),
        pytest.param(ALWAYS, {("a", "bash"): "7x10"}, {"bash": 0}, id="old, and quiet"),
        pytest.param({"a": "5 5 5 _ _ 5x5"}, {("a", "bash"): "7 7 7 _ _ 7x5"}, {"bash": 0}, id="scrapes missed"),
        pytest.param({"a": "5 5 5 _ _ 5x5"}, {("a", "bash"): "_ _ _ _ _ 1x5"}, {"bash": 1}, id="born while scrapes were missed"),
        pytest.param({"a": "_x4 5x5"}, {("a", "bash"): "_x4 9x5"}, {"bash": 0}, id="a host that is new brings its past"),
        pytest.param({"a": "_x4 5x5"}, {("a", "bash"): "_x6 1x3"}, {"bash": 1}, id="born on a host that is new"),
        # Prometheus 3 leaves out the sample at the start of the range, and extrapolates: 4.4.
        pytest.param(ALWAYS, {("a", "bash"): "4 4 4 6 6 _ _ _ 2 2 2"}, {"bash": 4}, id="a reboot between, born anew"),
        pytest.param({"a": "5x10", "b": "5x10"}, {("a", "bash"): "_x4 1x5", ("b", "bash"): "_x2 4x7"}, {"bash": 5}, id="two hosts"),
        pytest.param({"a": "5x7"}, {("a", "bash"): "_x4 1x2"}, {"bash": 1}, id="a host that is gone, what it did is not"),
    ],
)  # fmt: skip
def test_the_first_signal_counts(tmp_path, page, series, expected):
    promtool(tmp_path, page, series, expected)
