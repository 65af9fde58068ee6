"""The landing page: what a person wants to know who opens the port in a browser. It names no process and no event."""

import base64
import hashlib
import time
from collections import defaultdict
from html import escape

from killsnoopd import __version__
from killsnoopd.metrics.overview import Overview

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1b1f24; --dim: #5a6472; --line: #dfe3e8;
  --link: #0b57d0; --good: #1a7f37; --warn: #9a6700; --bad: #c4261d }
@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --card: #181c22; --text: #e7eaee; --dim: #9aa5b1;
  --line: #2c323a; --link: #8ab4f8; --good: #4cc368; --warn: #e0b341; --bad: #ff7b72 } }
* { box-sizing: border-box }
body { margin: 0; padding: 2.5rem 1rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif }
main { max-width: 46rem; margin: 0 auto }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .75rem }
h1 { margin: 0; font-size: 1.75rem }
h2 { margin: 0 0 .75rem; font-size: 1rem }
p { margin: 0 }
header p, dt, small { color: var(--dim) }
section, .state { margin-top: 1rem; padding: 1rem 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem }
.good { --state: var(--good) }
.warn { --state: var(--warn) }
.bad { --state: var(--bad) }
.state { border-left: .375rem solid var(--state) }
strong { color: var(--state) }
time { white-space: nowrap }
dl { margin: 0 }
.counts { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1rem }
.counts div { display: flex; flex-direction: column-reverse }
.counts dd { margin: 0; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums }
.ways div { display: grid; grid-template-columns: 7rem 1fr; gap: .25rem 1rem; padding: .25rem 0 }
.ways dd { margin: 0; overflow-wrap: anywhere }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em }
nav { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: baseline }
a { color: var(--link) }
small { display: block; margin-top: .75rem; font-size: .875rem }
"""

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of the response: the page has no script, loads nothing, and may not be framed."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>killsnoopd</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>killsnoopd</h1><p>Who sent that signal? Version {version}</p></header>
{state}
<section>
<h2>Counted</h2>
<dl class="counts">
{counts}
</dl>
</section>
<section>
<h2>Watching</h2>
<dl class="ways">
{ways}
</dl>
</section>
<section>
<nav><a href="{metrics}">Metrics</a><a href="{health}">Health</a>
<span>Documentation: <code>man killsnoopd</code></span></nav>
<small>Events are not shown here. On the machine itself, <code>killsnoop</code> lists them, and <code>killsnoop who
nginx</code> says what ended nginx.</small>
</section>
</main>
</body>
</html>
"""


def _state(overview: Overview) -> str:
    """Whether it counts and logs everything."""
    since = ""
    if overview.attached_s is not None:
        since = f" since <time>{time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(overview.attached_s))}</time>"
    if overview.detached:
        missing = escape(", ".join(overview.detached))
        told = f"<strong>Not attached</strong> to {missing}: nothing is counted there. The rest is attached{since}."
    else:
        told = f'<strong class="good">Attached</strong>{since}.'
    if overview.inexact:
        missing = escape(", ".join(overview.inexact))
        told += f' <strong class="warn">Signals may be missed</strong>: the kernel may preempt the probe at {missing}.'
    lost = sum(overview.lost.values())
    if lost:
        reasons = escape(", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in overview.lost.items()))
        told += f' <strong class="warn">Events were lost</strong>: {lost:,} ({reasons}).'
    else:
        told += " No event was lost."
    style = "bad" if overview.detached else "warn" if overview.inexact or lost else "good"
    return f'<p class="state {style}">{told}</p>'


def _pairs(pairs: list[tuple[str, str]]) -> str:
    return "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)


def html(overview: Overview, metrics: str, health: str) -> str:
    """The page; `metrics` and `health` are percent-encoded paths."""
    counts = [
        ("calls that send signals", overview.calls),
        ("signals delivered", overview.deliveries),
        ("deaths by a signal", overview.deaths),
        ("exits after a signal", overview.exits),
        ("events logged", overview.logged),
        ("events waiting", overview.pending),
    ]
    ways: defaultdict[str, list[str]] = defaultdict(list)
    for hook, way in overview.hooks.items():
        ways["not attached" if hook in overview.detached else way].append(hook)
    return _PAGE.format(
        style=_STYLE,
        version=escape(__version__),
        state=_state(overview),
        counts=_pairs([(name, f"{count:,}") for name, count in counts]),
        ways=_pairs([(way, ", ".join(hooks)) for way, hooks in ways.items()]),
        metrics=escape(metrics),
        health=escape(health),
    )
