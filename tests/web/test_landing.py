"""The landing page: what it says, and what a browser may do with it."""

import asyncio
import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from attacks import GET
from prometheus_client import CollectorRegistry

from killsnoopd import __version__
from killsnoopd.metrics.overview import Overview
from killsnoopd.web import landing, server
from killsnoopd.web.config_file import WebConfigFile

OVERVIEW = Overview(
    attached_s=1_700_000_000.0,
    hooks={"kill": "fexit", "tkill": "fexit", "signal_generate": "tp_btf"},
    detached=(),
    inexact=(),
    calls=1_234_567,
    deliveries=987_654,
    deaths=1201,
    exits=311,
    logged=2040,
    pending=17,
    lost={},
)


class Parsed(HTMLParser):
    """The text of a page without its style, the tags and attributes of all elements, and elements that were not closed."""

    VOID = ("meta",)

    def __init__(self, page):
        super().__init__()
        self.text, self.elements, self.open = "", [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += " ".join(data.split()) + " "

    def said(self):
        return re.sub(r" +([.:])", r"\1", " ".join(self.text.split()))


def page(**changes):
    return Parsed(landing.html(replace(OVERVIEW, **changes), "/metrics", "/-/healthy"))


def test_what_it_says():
    """Version, since when, by which ways, counts, and where to go from here."""
    found = page()
    said = found.said()
    for text in (
        f"Version {__version__}",
        "Attached since 2023-11-14 22:13:20 UTC. No event was lost.",
        "calls that send signals 1,234,567", "signals delivered 987,654", "deaths by a signal 1,201",
        "exits after a signal 311", "events logged 2,040", "events waiting 17",
        "fexit kill, tkill", "tp_btf signal_generate",
        "man killsnoopd",
    ):  # fmt: skip
        assert text in said
    assert [attrs["href"] for tag, attrs in found.elements if tag == "a"] == ["/metrics", "/-/healthy"]
    assert found.open == []


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ({}, "good", "Attached since 2023-11-14 22:13:20 UTC. No event was lost."),
        ({"attached_s": None}, "good", "Attached. No event was lost."),
        ({"lost": {"rate_limited": 1500, "ring_full": 2}}, "warn",
         "Attached since 2023-11-14 22:13:20 UTC. Events were lost: 1,502 (1,500 rate limited, 2 ring full)."),
        ({"inexact": ("kill", "tkill")}, "warn",
         "Attached since 2023-11-14 22:13:20 UTC. Signals may be missed: the kernel may preempt the probe at kill, tkill. No "
         "event was lost."),
        ({"detached": ("tkill",)}, "bad",
         "Not attached to tkill: nothing is counted there. The rest is attached since 2023-11-14 22:13:20 UTC."),
        ({"detached": ("tkill",), "lost": {"journal_error": 1}}, "bad", "Events were lost: 1 (1 journal error)."),
    ],
)  # fmt: skip
def test_whether_anything_is_wrong(changes, state, text):
    """In words, and by the colour of the box."""
    found = page(**changes)
    assert text in found.said()
    assert ("not attached tkill" in found.said()) == ("detached" in changes)
    assert [attrs["class"] for tag, attrs in found.elements if "state" in attrs.get("class", "")] == [f"state {state}"]


def test_a_hostile_path():
    """It is written as text."""
    found = Parsed(landing.html(OVERVIEW, '/"><script>alert(1)</script>', "/-/healthy"))
    assert "script" not in {tag for tag, _ in found.elements}
    assert '/"><script>alert(1)</script>' in [attrs.get("href") for _, attrs in found.elements]


def test_nothing_is_loaded_and_nothing_runs():
    """No script, no file, no attribute that runs or styles; the one style sheet is the one that the policy allows."""
    text = landing.html(OVERVIEW, "/metrics", "/-/healthy")
    found = Parsed(text)
    assert {tag for tag, _ in found.elements}.isdisjoint({"script", "img", "link", "iframe", "form", "object", "base"})
    allowed = {"lang", "charset", "name", "content", "class", "href"}
    assert {name for _, attrs in found.elements for name in attrs} <= allowed
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    policy = dict(part.split(" ", 1) for part in landing.HEADERS["Content-Security-Policy"].split("; "))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == {
        "default-src": "'none'", "style-src": f"'sha256-{digest}'", "base-uri": "'none'", "form-action": "'none'",
        "frame-ancestors": "'none'",
    }  # fmt: skip


def contrast(one, other):
    """The ratio of WCAG 2 between two colours."""

    def luminance(colour):
        digits = colour if len(colour) == 6 else "".join(digit * 2 for digit in colour)
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_both_themes_are_readable():
    """Each colour of text against the card, by the limit for text of normal size."""
    themes = landing._STYLE.split("@media")[:2]
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): #([0-9a-f]+)", theme))
        assert {"card", "text", "dim", "link", "good", "warn", "bad"} <= set(colours)
        for name in ("text", "dim", "link", "good", "warn", "bad"):
            assert contrast(colours[name], colours["card"]) >= 4.5, name


def test_the_answer():
    """Of each request anew, with the headers that guard it; HEAD has no body; one at a time, as for scrapes."""
    asked = []

    def look():
        asked.append(1)
        return replace(OVERVIEW, calls=len(asked))

    async def both():
        served = server.Server(CollectorRegistry(), look, "/metrics", WebConfigFile(None))
        ask = [b"%b / HTTP/1.1\r\nHost: x\r\n\r\n" % method for method in (b"GET", b"HEAD")]
        first, second = [await served.respond(request, "") for request in ask]
        many = await asyncio.gather(*(served.respond(ask[0], "") for _ in range(100)))
        return first, second, {body for _, body in many}

    assert GET.startswith(b"GET /metrics")
    (head, body), (head_only, nothing), bodies = asyncio.run(both())
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    for name, value in landing.HEADERS.items():
        assert f"\r\n{name}: {value}\r\n".encode() in head
    assert b"calls that send signals</dt><dd>1</dd>" in body
    assert (head_only.startswith(b"HTTP/1.1 200 OK\r\n"), nothing) == (True, b"")
    assert len(bodies) == 1
    assert len(asked) == 3
