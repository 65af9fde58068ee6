"""Builds pages in a thread, one at a time, and shares each page among the requests that wait for it."""

import asyncio
import contextlib
import ctypes
import gzip
import re
import sys
from collections.abc import Callable, Hashable
from functools import partial

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

# For sys.setswitchinterval: how long the thread that builds a page may hold the GIL while another one waits for it. The
# event thread needs the GIL several times for each event. With 10,000 series scraped back to back, 400 events a second
# wait 70 ms (median; at most 200) at Python's default of 5 ms, 1.2 (65) at 0.5 ms and 0.6 (14) at 0.2 ms; shorter does
# not help. Scrapes take as long as before.
_SWITCH_INTERVAL_S = 0.0002
# For mallopt(3). glibc allocates large blocks outside the heap. By default it raises that threshold as blocks are
# freed, so that pages fragment the heap; and each thread gets its own heap. Without these two options, 10,000 series
# under load took 4 MB more after three minutes than after half a minute.
_MALLOC_OPTIONS = {-3: 128 * 1024, -8: 1}  # malloc.h: M_MMAP_THRESHOLD, in bytes, and M_ARENA_MAX
_OPENMETRICS = "application/openmetrics-text"
# A choice of an Accept or Accept-Encoding header with its parameters, and a parameter; both may quote separators (RFC
# 9110, 5.6.4). A quote that does not end goes on to the end of the header, so that matching takes linear time.
_CHOICE = re.compile(r'(?:"(?:[^"\\]|\\.)*(?:"|\\?$)|[^,"])+')
_PARAMETER = re.compile(r';((?:"(?:[^"\\]|\\.)*(?:"|\\?$)|[^;"])*)')
_BLANK = " \t"
_WEIGHT = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.ASCII)  # RFC 9110, 12.4.2
# The Accept header for choose_encoder, by whether the client accepts OpenMetrics. With this escaping, prometheus_client
# 0.26 takes two thirds of the time; none of our names needs escaping. Older releases ignore it.
_ACCEPT = {False: "", True: f"{_OPENMETRICS}; version=1.0.0; escaping=allow-utf-8"}


def set_up_interpreter() -> None:
    """Tune GIL and malloc, so that building a page neither delays other threads nor fragments memory.

    Call it before the first thread starts.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with contextlib.suppress(AttributeError):  # musl has no mallopt(3)
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _MALLOC_OPTIONS.items():
            mallopt(option, value)


def weights(header: str) -> dict[str, float]:
    """The choices in an Accept or Accept-Encoding header, in lower case, with their weights (RFC 9110, 12.4.2).

    A choice whose weight is not valid has weight 0; of a repeated choice, the highest weight counts.
    """
    found: dict[str, float] = {}
    for choice in _CHOICE.findall(header.lower()):
        name = choice.partition(";")[0].strip(_BLANK)
        weight = 1.0
        for parameter in _PARAMETER.findall(choice):
            key, sign, value = parameter.partition("=")
            if key.strip(_BLANK) == "q" and sign:
                weight = float(value) if _WEIGHT.fullmatch(value := value.strip(_BLANK)) else 0.0
        found[name] = max(weight, found.get(name, 0.0))
    return found


def prefers_openmetrics(accept: str) -> bool:
    """Whether a client names OpenMetrics and does not prefer text. A client that accepts neither gets text."""
    found = weights(accept)
    return found.get(_OPENMETRICS, 0.0) > 0 and found[_OPENMETRICS] >= found.get("text/plain", 0.0)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a client names gzip and does not prefer the plain page, which is always a possible answer."""
    found = weights(accept_encoding)
    gzip_weight = max(found.get(name, 0.0) for name in ("gzip", "x-gzip"))
    return gzip_weight > 0 and gzip_weight >= found.get("identity", 0.0)


class Pages:
    """Pages of a registry, and others. The counts on a page are never older than the request for it.

    Each request waits for the first build that begins after it. Requests that arrive before that build begins share it,
    so a thousand requests at once cost two builds: the running one, and the one that they share.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._to_begin: dict[Hashable, asyncio.Task[bytes]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def get(self, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        """The body and the headers for a request with these headers."""
        # Only text or OpenMetrics. choose_encoder also accepts dialects (escaping=, version=), each of which would need
        # its own build, and its newer releases raise if a version is not a number.
        openmetrics = prefers_openmetrics(accept)
        _, content_type = choose_encoder(_ACCEPT[openmetrics])
        zipped = accepts_gzip(accept_encoding)
        body = await self.share((openmetrics, zipped), partial(self._encode, openmetrics, zipped))
        encoding = {"Content-Encoding": "gzip"} if zipped else {}
        return body, {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding", **encoding}

    async def share(self, kind: Hashable, encode: Callable[[], bytes]) -> bytes:
        """The bytes of the page of this kind that `encode` builds."""
        build = self._to_begin.get(kind)
        if build is None:
            build = self._to_begin[kind] = asyncio.create_task(self._build(kind, encode))
        return await asyncio.shield(build)  # a client that disconnects must not cancel it for the others

    async def _build(self, kind: Hashable, encode: Callable[[], bytes]) -> bytes:
        async with self._one_at_a_time:
            del self._to_begin[kind]
            return await asyncio.to_thread(encode)

    def _encode(self, openmetrics: bool, zipped: bool) -> bytes:
        encoder, _ = choose_encoder(_ACCEPT[openmetrics])
        text = encoder(self._registry)
        # 2 to 3 ms for 10,000 series; the default level takes twice as long and saves a tenth of the bytes.
        return gzip.compress(text, compresslevel=1, mtime=0) if zipped else text
