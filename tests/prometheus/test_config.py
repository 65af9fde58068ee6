"""deploy/prometheus, checked with Prometheus' own tools."""

import re
import shutil
import subprocess

import pytest
from servers import RULES, tool

from killsnoopd.probe.program import Layout
from killsnoopd.settings import Settings

FOLDER = RULES.parent
CONFIGS = sorted(FOLDER.glob("prometheus*.yml"))


def promtool(*arguments):
    result = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def understood(tmp_path):
    """The configuration without parts that this promtool cannot read: Debian's is built without Kubernetes."""

    def put(path):
        shutil.copytree(FOLDER, tmp_path / "prometheus")
        copy = tmp_path / "prometheus" / path.name
        if "field kubernetes_sd_configs not found" in promtool("check", "config", copy)[1]:
            text = copy.read_text()
            assert re.findall(r"kubernetes_sd_configs:\n +- role: (\w+)\n", text) == ["service", "pod"]
            copy.write_text(
                re.sub(
                    r"kubernetes_sd_configs:\n( +)- role: \w+\n",
                    r"file_sd_configs:\n\1- files: [targets/*.yml]\n",
                    text,
                )
            )
        return copy

    return put


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configurations(path, understood):
    """Each is valid, with the rules and targets that it names."""
    status, said = promtool("check", "config", understood(path))
    assert status == 0, said
    assert not re.search(r"warning|error|fail", said, re.IGNORECASE), said
    assert "SUCCESS: 2 rule files found" in said


def test_there_is_one_for_each_way_to_find_the_daemons():
    """A list, files, and Kubernetes."""
    text = "".join(path.read_text() for path in CONFIGS)
    assert all(f"{way}_configs" in text for way in ("static", "file_sd", "kubernetes_sd"))


@pytest.mark.parametrize("path", sorted(RULES.glob("*.yml")), ids=lambda path: path.name)
def test_rules(path):
    """promtool's linter reports nothing."""
    status, said = promtool("check", "rules", "--lint=all", "--lint-fatal", path)
    assert status == 0, said


def test_the_job_is_the_one_that_the_alert_on_it_means():
    """Otherwise KillsnoopDown would watch a job that does not exist."""
    (job,) = set(re.findall(r'up\{job="(\w+)"\}', (RULES / "alerts.yml").read_text()))
    for path in CONFIGS:
        assert re.findall(r"job_name: (\w+)", path.read_text()) == [job]


def test_the_largest_page_is_within_the_limit():
    """Prometheus drops a page that has more samples: all of a host's metrics would be missing when it matters."""
    settings = Settings()
    layout = Layout(1, settings.max_series, settings.max_deaths)
    with_times, without = layout.aged, layout.escalations - layout.aged
    most = 2 * with_times + without + 300  # the rest of the page
    limits = [int(limit) for path in CONFIGS for limit in re.findall(r"sample_limit: (\d+)", path.read_text())]
    assert limits
    assert all(most <= limit <= 1.1 * most for limit in limits)


def test_the_metrics_of_the_rules_are_on_the_page():
    """Compared with the golden file: no rule uses a name that is gone."""
    page = (FOLDER.parent.parent / "tests/golden/page.metrics").read_text()
    known = set(re.findall(r"^(\w+)[{ ]", page, re.M))
    for path in RULES.glob("*.yml"):
        text = re.sub(r"^ *#.*$|^ +(description|summary|runbook_url):.*$", "", path.read_text(), flags=re.M)
        assert (
            set(re.findall(r"(?<![:\w])killsnoop_\w+(?!\w*:)", text)) - {"killsnoop_signals", "killsnoop_deliveries"}
            <= known
        )


def test_the_port_is_the_daemons():
    """In each list of targets."""
    text = "".join(path.read_text() for path in [*CONFIGS, *FOLDER.glob("targets/*")])
    assert set(re.findall(r"example\.com:(\d+)", text)) == {"10035"}
