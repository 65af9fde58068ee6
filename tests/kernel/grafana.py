"""The path from a dashboard to its numbers: a real Prometheus, and what Grafana does: fill in variables."""

import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from waiting import DEADLINE_S, wait_for

DASHBOARD = Path(__file__).parents[2] / "deploy/grafana-dashboard.json"
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?::(\w+))?\}")


def panels(dashboard):
    """Every panel except the rows, including those in collapsed rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def escaped(value):
    """How Grafana's Prometheus data source escapes a value of a multi-value variable."""
    return re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\" * 4))


def variables(dashboard, **chosen):
    """{name: text} of the variables: all values, unless a list was chosen."""
    found = {}
    for variable in dashboard["templating"]["list"]:
        values = chosen.get(variable["name"])
        if values is None:
            found[variable["name"]] = variable.get("allValue") or variable.get("current", {}).get("value", "")
        elif len(values) == 1:
            found[variable["name"]] = escaped(values[0])
        else:
            found[variable["name"]] = f"({'|'.join(map(escaped, values))})"
    return found


def filled(expression, values):
    """The query with its variables filled in; an unknown one stays (`$1`)."""
    return _VARIABLE.sub(lambda match: values.get(match[1] or match[2], match[0]), expression)


class Prometheus:
    """A server on loopback that scrapes the targets, {instance: host:port}; the given number of them is up at first."""

    def __init__(self, folder, targets, interval_s=1, up=None):
        folder.mkdir()
        scrape = {
            "job_name": "killsnoopd",
            "static_configs": [{"targets": [at], "labels": {"instance": name}} for name, at in targets.items()],
        }
        every = {"scrape_interval": f"{interval_s}s", "scrape_timeout": f"{interval_s}s"}
        config = folder / "prometheus.yml"
        config.write_text(json.dumps({"global": every, "scrape_configs": [scrape]}))  # JSON is YAML
        self.log = folder / "log"
        self.interval_s = interval_s
        command = [
            str(Path(os.environ.get("PROMTOOL", "promtool")).with_name("prometheus")), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0", "--query.lookback-delta=10s",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            address = wait_for(self._listening, "Prometheus to listen")
            self.url = f"http://{address}/api/v1/"
            wait_for(lambda: self.query("sum(up)") == [({}, float(up or len(targets)))], "a scrape of every target")
        except BaseException:
            self.stop()
            raise

    def _listening(self):
        assert self.process.poll() is None, self.log.read_text()
        # It does not print its port: find out where it listens.
        ours = {str(fd.readlink()) for fd in Path(f"/proc/{self.process.pid}/fd").glob("*") if fd.is_symlink()}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[number] for number in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in ours:
                return f"127.0.0.1:{int(local.partition(':')[2], 16)}"
        return None

    def _get(self, path, **parameters):
        body = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(self.url + path, body, timeout=DEADLINE_S) as response:
                return json.load(response)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return []  # it is starting
            raise AssertionError(f"{json.load(error)['error']}: {parameters}") from None
        except urllib.error.URLError:
            return []  # it does not listen yet

    def query(self, expression, at=None):
        """[(labels, value)] at one moment."""
        when = {} if at is None else {"time": at}
        return [
            (sample["metric"], float(sample["value"][1])) for sample in self._get("query", query=expression, **when)
        ]

    def raw(self, selector, at, range_s):
        """[(labels, [(time, value)])]: the samples as scraped."""
        found = self._get("query", query=f"{selector}[{range_s}s]", time=at)
        return [(each["metric"], [(when, float(value)) for when, value in each["values"]]) for each in found]

    def query_range(self, expression, start, end, step_s):
        """[(labels, [(time, value)])] over time."""
        found = self._get("query_range", query=expression, start=start, end=end, step=step_s)
        return [(each["metric"], [(when, float(value)) for when, value in each["values"]]) for each in found]

    def newest_scrape(self):
        """The time of the newest scrape of all targets; 0 if the last one failed."""
        return min((value for _, value in self.query("timestamp(killsnoop_series)")), default=0.0)

    def wait_for_scrape(self):
        """Wait until everything up to now has been scraped."""
        before = self.newest_scrape()
        wait_for(lambda: self.newest_scrape() > before + 1.01 * self.interval_s, "two more scrapes")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.wait()
