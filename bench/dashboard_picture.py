#!/usr/bin/env python3
"""Draws docs/dashboard.png: the results of the dashboard's own queries for a real daemon under load, in its own layout.

    sudo apt install python3-matplotlib
    sudo PROMTOOL=$(scripts/promtool) /usr/bin/python3 bench/dashboard_picture.py docs/dashboard.png

Grafana does not draw it. Signals of other processes on this machine are in the picture too, where no name excludes them.
"""

import ctypes
import json
import os
import random
import re
import signal
import socket
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
from matplotlib import dates
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/kernel")]

from cases import Processes, out_of_memory  # noqa: E402
from grafana import DASHBOARD, Prometheus, filled, panels, variables  # noqa: E402
from running import Daemon  # noqa: E402
from senders import NO_SUCH_PID, NOBODY, forked, run, send  # noqa: E402

LOAD_S, STEP_S = 150, 5
UNIT_IN, WIDTH = 0.36, 24  # a line of Grafana's grid is 38 pixels high, its width 24 columns
PAGE, PANEL, EDGE, TEXT, DIM = "#111217", "#181b1f", "#2b2e34", "#d4d5da", "#8e9099"
PALETTE = ("#73bf69", "#5794f2", "#f2cc0c", "#ff780a", "#b877d9", "#8ab8ff", "#f2495c", "#ffa6b0", "#37872d", "#e0b400", "#a352cc", "#c0d8ff")  # fmt: skip
NAMED = {
    "red": "#f2495c",
    "orange": "#ff9830",
    "yellow": "#fade2a",
    "green": "#73bf69",
    "blue": "#5794f2",
    "purple": "#b877d9",
}
SENDERS = [
    "celery",
    "containerd-shim",
    "deploy.sh",
    "kubelet",
    "nginx",
    "postgres",
    "runc:[2:INIT]",
    "scanner",
    "supervisord",
]
SIGNALS = ["0", "SIGABRT", "SIGHUP", "SIGINT", "SIGKILL", "SIGSEGV", "SIGTERM"]


def load(processes: Processes, minutes: float, late: float, start_late) -> None:
    """A bad day, shortened: services that are stopped, one that will not stop, a scanner, an OOM kill."""
    chance = random.Random(5)
    began, started = time.monotonic(), False

    def stops(sender, victim, number, times=1):
        targets = [processes.victim(victim) for _ in range(times)]
        run(lambda: [send("kill", target, number) for target in targets], sender.encode())
        for target in targets:
            os.waitpid(target, 0)

    def forces(sender, victim):
        target = processes.victim(victim, lambda: signal.signal(signal.SIGTERM, lambda *_: None))
        run(lambda: send("kill", target, 15), sender.encode())
        time.sleep(1)
        run(lambda: send("kill", target, 9), sender.encode())
        os.waitpid(target, 0)

    def scans():
        run(lambda: [send("kill", os.getppid(), 0) for _ in range(chance.randint(10, 25))], b"scanner", NOBODY)
        run(lambda: [send("kill", NO_SUCH_PID, 15) for _ in range(chance.randint(2, 6))], b"scanner", NOBODY)

    def reloads():
        target = processes.victim("nginx", lambda: signal.signal(signal.SIGHUP, lambda *_: None))
        run(lambda: [send("kill", target, 1) for _ in range(chance.randint(1, 4))], b"nginx")
        run(lambda: send("kill", target, 15), b"supervisord")
        os.waitpid(target, 0)

    def cancels():
        target = processes.victim("postgres", lambda: signal.signal(signal.SIGINT, lambda *_: None))
        run(lambda: [send("kill", target, signal.SIGINT) for _ in range(chance.randint(3, 9))], b"postgres")
        stops("postgres", "postgres", 15)
        run(lambda: send("kill", target, 9), b"postgres")
        os.waitpid(target, 0)

    acts = [
        (4, lambda: stops("containerd-shim", "app", 15, chance.randint(1, 3))),
        (3, lambda: stops("runc:[2:INIT]", "app", 9, chance.randint(1, 2))),
        (2, lambda: forces("kubelet", "java")),
        (3, reloads), (3, cancels), (2, lambda: stops("celery", "celery-worker", 9, chance.randint(1, 5))),
        (1, lambda: stops("deploy.sh", "nginx", 9)),
        (1, lambda: os.waitpid(forked(os.abort, b"java"), 0)), (1, lambda: os.waitpid(forked(lambda: ctypes.string_at(0), b"app"), 0)),
    ]  # fmt: skip
    while (now := time.monotonic() - began) < minutes * 60:
        if now > late and not started:
            start_late()
            started = True
        chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]()
        if 0.35 < now / (minutes * 60) < 0.6:
            scans()
        if chance.random() < 0.03 or (started and now % 40 < 1):
            out_of_memory(processes, "kd-oom")
        time.sleep(chance.uniform(0.3, 2.5))


def number(value: float, unit: str) -> str:
    """A number as Grafana writes it."""
    if unit == "percentunit":
        return f"{value * 100:.1f} %"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    if unit == "s":
        return next(
            (f"{value * by:.3g} {name}" for name, by in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)) if value * by < 1000),
            f"{value:.3g} s",
        )
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"


class Picture:
    """The figure, and the Prometheus that answers its queries."""

    def __init__(self, prometheus: Prometheus, start: float, end: float, height: int) -> None:
        self.prometheus, self.start, self.end, self.height = prometheus, start, end, height
        board = json.loads(DASHBOARD.read_text())
        window = {
            "__range": f"{int(end - start)}s",
            "__range_s": str(int(end - start)),
            "__interval": f"{STEP_S}s",
            "__rate_interval": f"{STEP_S + 1}s",
        }
        self.values = variables(board, comm=SENDERS, signal=SIGNALS) | window
        mpl.rcParams.update(
            {
                "font.family": "DejaVu Sans",
                "text.color": TEXT,
                "axes.edgecolor": EDGE,
                "xtick.color": DIM,
                "ytick.color": DIM,
            }
        )
        self.inches = (17, height * UNIT_IN + 0.55)
        self.figure = plt.figure(figsize=self.inches, facecolor=PAGE)
        self.figure.text(0.008, 1 - 0.28 / self.inches[1], board["title"], size=15, weight="bold", va="center")
        when = f"{datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M} to {datetime.fromtimestamp(end, UTC):%H:%M} UTC"
        self.figure.text(
            0.992,
            1 - 0.28 / self.inches[1],
            f"Sender: {len(SENDERS)} chosen     Signal: {len(SIGNALS)} chosen     {when}",
            size=10,
            color=DIM,
            va="center",
            ha="right",
        )
        self.figure.text(0.4, 1 - 0.28 / self.inches[1], "┊ OOM kill", size=10, color=NAMED["red"], va="center")
        annotation = next(each["target"]["expr"] for each in board["annotations"]["list"] if "target" in each)
        self.kills = [when for _, points in self.over_time(annotation) for when, _ in points]

    def over_time(self, expression):
        return self.prometheus.query_range(filled(expression, self.values), self.start, self.end, STEP_S)

    def now(self, expression):
        return self.prometheus.query(filled(expression, self.values), self.end)

    def box(self, grid, inset=(0.0, 0.0, 0.0, 0.0)):
        """The position of a panel in fractions of the figure; inset in inches: left, bottom, right, top."""
        width, height = self.inches
        column = (width - 0.2) / WIDTH
        left = 0.1 + grid["x"] * column + 0.05 + inset[0]
        bottom = height - 0.55 - (grid["y"] + grid["h"]) * UNIT_IN + 0.05 + inset[1]
        return (left / width, bottom / height, (grid["w"] * column - 0.1 - inset[0] - inset[2]) / width, (grid["h"] * UNIT_IN - 0.1 - inset[1] - inset[3]) / height)  # fmt: skip

    def frame(self, panel):
        """The panel's surface and title."""
        left, bottom, wide, high = self.box(panel["gridPos"])
        self.figure.patches.append(
            FancyBboxPatch((left, bottom), wide, high, boxstyle="round,pad=0,rounding_size=0.002", mutation_aspect=self.inches[0] / self.inches[1],
                           transform=self.figure.transFigure, facecolor=PANEL, edgecolor=EDGE, linewidth=0.8, zorder=-1)
        )  # fmt: skip
        self.figure.text(
            left + 0.12 / self.inches[0],
            bottom + high - 0.19 / self.inches[1],
            panel["title"],
            size=10,
            weight="bold",
            va="center",
        )

    def axes(self, panel, *inset):
        found = self.figure.add_axes(self.box(panel["gridPos"], inset), facecolor="none")
        found.spines[:].set_visible(False)
        return found

    def row(self, panel):
        left, bottom, _, high = self.box(panel["gridPos"])
        self.figure.text(
            left + 0.05 / self.inches[0],
            bottom + high / 2,
            f"▾  {panel['title']}",
            size=11.5,
            weight="bold",
            va="center",
        )

    def legend(self, labels, target):
        text = target["legendFormat"]
        return text if text != "__auto" and "{{" not in text else "".join(_fill(text, labels))

    def hue(self, panel, name, order):
        for override in panel["fieldConfig"]["overrides"]:
            if override["matcher"]["options"] == name:
                for each in override["properties"]:
                    if each["id"] == "color":
                        return NAMED[each["value"]["fixedColor"]]
        return PALETTE[order % len(PALETTE)]

    def stat(self, panel):
        found = [
            (self.legend(labels, target), value)
            for target in panel["targets"]
            for labels, value in self.now(target["expr"])
        ]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        value = found[0][1] if found else 0
        name = [step["color"] for step in steps if step["value"] is None or round(value) >= step["value"]][-1]
        left, bottom, wide, high = self.box(panel["gridPos"])
        self.figure.patches[-1].set_facecolor(NAMED[name])
        self.figure.patches[-1].set_alpha(0.82)
        text = f"{found[0][1]:.0f} of {found[1][1]:.0f}" if len(found) == 2 else number(round(value), "short")
        self.figure.text(
            left + wide / 2, bottom + high * 0.42, text, size=28, weight="bold", ha="center", va="center", color="white"
        )

    def timeseries(self, panel):
        unit = panel["fieldConfig"]["defaults"]["unit"]
        bars = panel["fieldConfig"]["defaults"]["custom"]["drawStyle"] == "bars"
        found = sorted(
            (self.legend(labels, target), points)
            for target in panel["targets"]
            for labels, points in self.over_time(target["expr"])
        )
        shown = sorted(found, key=lambda pair: -sum(value for _, value in pair[1]))[:12]
        found = [pair for pair in found if pair in shown]
        columns = 2 if panel["gridPos"]["w"] <= 8 else 4
        lines = -(-len(found) // columns)
        at = self.axes(panel, 0.62, 0.42 + 0.19 * lines, 0.18, 0.45)
        at.grid(axis="y", color=EDGE, linewidth=0.6)
        at.set_axisbelow(True)
        base = {}
        for order, (name, points) in enumerate(found):
            hue = self.hue(panel, name, order)
            times = [datetime.fromtimestamp(when, UTC) for when, _ in points]
            values = [value for _, value in points]
            if bars:
                at.bar(
                    times,
                    values,
                    STEP_S * 0.82 / 86400,
                    [base.get(when, 0) for when, _ in points],
                    color=hue,
                    linewidth=0,
                )
                for when, value in points:
                    base[when] = base.get(when, 0) + value
            else:
                at.plot(times, values, color=hue, linewidth=1.3)
                at.fill_between(times, values, color=hue, alpha=0.08)
            width, height = (
                self.box(panel["gridPos"])[2] * self.inches[0],
                self.box(panel["gridPos"], (0.62, 0.42 + 0.19 * lines, 0.18, 0.45)),
            )
            left = self.box(panel["gridPos"])[0] + (0.15 + (order % columns) * (width - 0.2) / columns) / self.inches[0]
            below = height[1] - (0.36 + 0.19 * (order // columns)) / self.inches[1]
            self.figure.text(left, below, "■", color=hue, size=8, va="center")
            self.figure.text(left + 0.13 / self.inches[0], below, name, size=8, va="center", color=TEXT)
        for when in self.kills:
            at.axvline(
                datetime.fromtimestamp(when, UTC), color=NAMED["red"], linewidth=0.8, linestyle=(0, (3, 3)), alpha=0.8
            )
        at.set_xlim(datetime.fromtimestamp(self.start, UTC), datetime.fromtimestamp(self.end, UTC))
        at.set_ylim(0, max(panel["fieldConfig"]["defaults"].get("max", 0), at.get_ylim()[1]) if found else 1)
        at.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
        at.xaxis.set_major_locator(dates.SecondLocator(bysecond=(0, 30)))
        at.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=unit == "short"))
        at.yaxis.set_major_formatter(lambda value, _: number(value, unit))
        at.tick_params(labelsize=8, length=0)
        if not found:
            at.text(0.5, 0.5, "No data", transform=at.transAxes, ha="center", color=DIM, size=11)

    def bargauge(self, panel):
        (target,) = panel["targets"]
        found = sorted(((value, labels["comm"]) for labels, value in self.now(target["expr"])), reverse=True)
        at = self.axes(panel, 1.3, 0.12, 0.6, 0.42)
        most = max((value for value, _ in found), default=1)
        for order, (value, name) in enumerate(found):
            at.barh(order, most, 0.72, color="#22252b")
            at.barh(order, value, 0.72, color=mpl.colormaps["BuPu"](0.4 + 0.5 * value / most))
            at.text(-most * 0.02, order, name, ha="right", va="center", size=9)
            at.text(most * 1.02, order, number(round(value), "short"), va="center", size=9, weight="bold")
        at.set(xlim=(0, most), ylim=(max(len(found), 6) - 0.4, -0.6), xticks=[], yticks=[])

    def table(self, panel):
        names = panel["transformations"][1]["options"]["renameByName"]
        rows = {}
        for target in panel["targets"]:
            for labels, value in self.now(target["expr"]):
                key = tuple(labels.get(name, "") for name in ("comm", "signal", "result", "instance"))
                rows.setdefault(key, {}).update(labels)
                rows[key][f"Value #{target['refId']}"] = value
        dated = {name for name in names if names[name] in ("First", "Last")}
        first = panel["options"]["sortBy"][0]["displayName"]
        sort = next(name for name, shown in names.items() if shown == first)
        room = int((panel["gridPos"]["h"] * UNIT_IN - 0.85) / 0.25)
        widths = [
            {"First": 1.1, "Last": 1.1, "Log": 4.2, "Sender": 1.1, "Calls": 0.55}.get(shown, 0.9)
            for shown in names.values()
        ]
        at = self.axes(panel, 0.15, 0.08, 0.1, 0.38)
        at.set(xlim=(0, sum(widths)), ylim=(room + 1, 0), xticks=[], yticks=[])
        left = 0.0
        ordered = sorted(rows.values(), key=lambda row: row.get(sort, 0), reverse=True)[:room]
        for (name, shown), width in zip(names.items(), widths, strict=True):
            at.text(
                left, 0.45, shown + (" ↓" if name == sort else ""), size=9, weight="bold", va="center", color="#6e9fff"
            )
            for line, row in enumerate(ordered, 1):
                value = row.get(name, "-")
                if name in dated and value != "-":
                    value = f"{datetime.fromtimestamp(value / 1000, UTC):%H:%M:%S}"
                elif isinstance(value, float):
                    value = number(round(value), "short")
                link = "#6e9fff" if shown in ("Sender", "Host") else TEXT
                mono = {"family": "DejaVu Sans Mono", "size": 8} if shown == "Log" else {"size": 9}
                at.text(left, line + 0.45, value, va="center", color=link, **mono)
            left += width
        for line in range(1, len(ordered) + 1):
            at.axhline(line, color=EDGE, linewidth=0.6)


def _fill(text, labels):
    """{{comm}} of a legend; a label that is missing is empty, as in Grafana."""
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), text).strip()


def draw(prometheus: Prometheus, start: float, end: float, path: str) -> None:
    """Draw every row down to the end of the hosts."""
    board = json.loads(DASHBOARD.read_text())
    below = next(panel["gridPos"]["y"] for panel in board["panels"] if panel["title"] == "killsnoopd itself")
    last = max(
        (panel for panel in board["panels"] if panel["gridPos"]["y"] < below), key=lambda panel: panel["gridPos"]["y"]
    )
    empty = last["gridPos"]["h"] - 4  # two hosts need no more lines
    last["gridPos"]["h"] -= empty
    picture = Picture(prometheus, start, end, below - empty)
    for panel in board["panels"]:
        if panel["gridPos"]["y"] >= below:
            continue
        if panel["type"] == "row":
            picture.row(panel)
        else:
            picture.frame(panel)
            getattr(picture, panel["type"])(panel)
    picture.figure.savefig(path, dpi=100, facecolor=PAGE)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main() -> None:
    """Two daemons, the second one started later; a Prometheus; a load; the picture."""
    assert list(panels(json.loads(DASHBOARD.read_text())))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder, started, processes, port = Path(name), [], Processes(), free_port()

        def start(host, *flags):
            started.append(Daemon(folder / host, flags))
            started[-1].wait_ready()
            return started[-1].url.removeprefix("http://")

        try:
            first = start("web-1")
            prometheus = Prometheus(folder / "prometheus", {"web-1": first, "db-1": f"127.0.0.1:{port}"}, up=1)
            started.append(prometheus)
            prometheus.wait_for_scrape()
            began = prometheus.newest_scrape()
            load(processes, LOAD_S / 60, LOAD_S / 4, lambda: start("db-1", f"--web.listen-address=127.0.0.1:{port}"))
            prometheus.wait_for_scrape()
            draw(prometheus, began, prometheus.newest_scrape(), sys.argv[1])
        finally:
            processes.close()
            for each in reversed(started):
                each.stop()


if __name__ == "__main__":
    main()
