"""The page: its bytes, when it is built, who shares it."""

import asyncio
import gzip
import threading

import pytest
from fakes import FakeProbe, counts
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from killsnoopd.metrics import families
from killsnoopd.metrics.page import Pages, accepts_gzip, weights

TEXT, OPENMETRICS = (
    "text/plain;version=0.0.4",
    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
)
HOSTILE = [
    b'x"} 1\ny{z="',
    b"\\",
    b"\xff",
    b"(other)",
    b"",
    b" ",
    b"{}",
    b"\xe2\x98\x83#",
    b"\x1b[2J",
    b'"',
    b"# EOF\n",
]
VARY = {"Vary": "Accept, Accept-Encoding"}


class Counting:
    """A probe that counts one more call at each reading, and can be blocked while it reads."""

    def __init__(self):
        self.readings = 0
        self.running = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.layout = FakeProbe().layout

    def registry(self):
        result = CollectorRegistry()
        result.register(self)
        return result

    def describe(self):
        return []

    def collect(self):
        self.readings += 1
        reading = self.readings
        self.running.set()
        assert self.go_on.wait(30)
        yield from families.signals(counts([(b"a", 9, 0, reading)]), bytes.decode, families.MonotonicTotals())


def reading(answer):
    """The number of the reading that a response has."""
    family, _ = text_string_to_metric_families(answer[0].decode())
    return family.samples[0].value


@pytest.mark.parametrize(
    ("accept", "encode"),
    [
        ("", generate_latest),
        ("*/*", generate_latest),
        (TEXT, generate_latest),
        (OPENMETRICS, generate_openmetrics),
        ("application/openmetrics-text", generate_openmetrics),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.1", generate_openmetrics),
        ("application/openmetrics-text; version=x; escaping=values", generate_openmetrics),
        ("text/plain;version=1.0.0;escaping=dots", generate_latest),
        ("application/openmetrics-text-not", generate_latest),
        ("application/openmetrics-text;version=1.0.0;q=0,text/plain", generate_latest),
        (",;=,\xff;", generate_latest),
        ("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.1", generate_latest),
        ("text/plain;q=0.5,application/openmetrics-text;q=0.5", generate_openmetrics),
        ("text/plain,application/openmetrics-text", generate_openmetrics),
        ("*/*;q=0.9,application/openmetrics-text;q=0.1", generate_openmetrics),
        ("Application/OpenMetrics-Text; Q=1.000 ", generate_openmetrics),
        ("application/openmetrics-text;q=0.000", generate_latest),
        ("application/openmetrics-text;q=2", generate_latest),
        ('text/plain;x="a,application/openmetrics-text,b"', generate_latest),
        ('application/openmetrics-text;x="a;q=0";q=0.3', generate_openmetrics),
        ("application/*", generate_latest),
        ("text/html", generate_latest),
    ],
)
def test_the_bytes_are_those_of_prometheus_client(accept, encode):
    """Including names that could break a line, in both formats, compressed or not, for any Accept header."""
    probe = FakeProbe(counts([(name, 15, -1, 2**60) for name in HOSTILE], overflow=[(9, "(other)", 3)]))
    registry = CollectorRegistry()
    registry.register(families.Collector(probe, None))

    async def both():
        return await asyncio.gather(Pages(registry).get(accept, ""), Pages(registry).get(accept, "deflate, gzip"))

    (plain, headers), (zipped, zipped_headers) = asyncio.run(both())
    assert plain == gzip.decompress(zipped) == encode(registry)
    kind = "application/openmetrics-text; " if encode == generate_openmetrics else "text/plain; version=0.0.4; "
    assert headers["Content-Type"].startswith(kind)
    assert zipped_headers == headers | {"Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("x-gzip", True),
        ("GZIP", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip ; q=0.001", True),
        ("br,gzip;q=1.0", True),
        ("", False),
        ("identity", False),
        ("*", False),
        ("gzip;q=0", False),
        ("gzip; Q=0.000", False),
        ("gzip;q=0, *;q=0", False),
        ("x-notgzip-really", False),
        ("gzipped", False),
        ("gzip\t;\tq=0.5", True),
        ("gzip;q=1.", True),
        ("gzip;q=0.", False),
        ("gzip;q=", False),
        ("gzip;q=-1", False),
        ("gzip;q=nan", False),
        ("gzip;q=1e9", False),
        ("gzip;q=0.0001", False),  # a weight has three digits
        ("gzip;q=1.5", False),
        ("gzip;level=9;q=0", False),
        ("gzip;q", True),  # not a weight, but a parameter without a value
        ("gzip;q=0, gzip", True),
        ("x-gzip;q=0, gzip;q=0.2", True),
        ("identity, gzip", True),
        ("identity;q=1, gzip;q=0.5", False),
        ("identity;q=0.5, gzip;q=0.5", True),
        ("identity;q=0", False),  # sent plain all the same
        ("*;q=0", False),
        ("*;q=1, gzip;q=0", False),
        ("gzip gzip", False),
        (",,gzip,,", True),
        ("\xa0gzip", False),
        ("gzip;q=\u0661", False),
        ('"gzip"', False),
        ('"gzip', False),
    ],
)
def test_what_a_client_accepts(header, accepted):
    """gzip is accepted if it is named with a weight above 0 that is not below the plain page's."""
    assert accepts_gzip(header) == accepted

    async def encoding():
        _, headers = await Pages(CollectorRegistry()).get("", header)
        return headers.get("Content-Encoding")

    assert asyncio.run(encoding()) == ("gzip" if accepted else None)


def test_a_header_made_to_take_long():
    """The longest headers that the port reads take linear time."""
    for header in ('"' * 16_000, 'a"\\"' * 4_000, ";q=" * 5_000, "," * 16_000, " " * 16_000, "a;" * 8_000):
        assert weights(header) is not None


def test_a_thousand_requests_at_once_cost_two_builds():
    """Requests that arrive during a build share the next one; none gets a page whose build began before it."""

    async def scrape():
        probe = Counting()
        pages = Pages(probe.registry())
        probe.go_on.clear()
        first = asyncio.create_task(pages.get("", ""))
        await asyncio.to_thread(probe.running.wait, 30)
        others = [asyncio.create_task(pages.get("", "")) for _ in range(999)]
        await asyncio.sleep(0)
        probe.go_on.set()
        assert reading(await first) == 1
        assert {reading(await other) for other in others} == {2}
        assert probe.readings == 2
        assert reading(await pages.get("", "")) == 3

    asyncio.run(scrape())


def test_whatever_they_ask_for_there_are_four_pages():
    """Text or OpenMetrics, compressed or not: no header makes a fifth."""

    async def scrape():
        probe = Counting()
        pages = Pages(probe.registry())
        asked = [
            f"{kind}; version=1.0.{n}; escaping=dots" for kind in ("text/plain", OPENMETRICS[:28]) for n in range(50)
        ]
        await asyncio.gather(
            *(pages.get(accept, encoding) for accept in asked for encoding in ("", "gzip", "gzip, br"))
        )
        assert probe.readings == 4

    asyncio.run(scrape())


def test_the_loop_goes_on_while_a_page_is_built():
    """A client that leaves meanwhile does not take the page from another."""

    async def scrape():
        probe = Counting()
        pages = Pages(probe.registry())
        probe.go_on.clear()
        gone, waiting = (asyncio.create_task(pages.get("", "")) for _ in range(2))
        await asyncio.to_thread(probe.running.wait, 30)
        gone.cancel()
        await asyncio.sleep(0)
        assert gone.cancelled()
        assert not waiting.done()
        probe.go_on.set()
        assert reading(await waiting) == 1

    asyncio.run(scrape())


def test_a_page_that_cannot_be_built():
    """Each request that waited for it gets the error; the next request starts another build."""

    class Broken:
        def describe(self):
            return []

        def collect(self):
            raise OSError(24, "Too many open files")

    async def scrape():
        registry = CollectorRegistry()
        broken = Broken()
        registry.register(broken)
        pages = Pages(registry)
        for _ in range(2):
            found = await asyncio.gather(*(pages.get("", "") for _ in range(3)), return_exceptions=True)
            assert [type(error) for error in found] == [OSError] * 3
        registry.unregister(broken)
        assert await pages.get("", "") == (b"", {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"} | VARY)

    asyncio.run(scrape())
