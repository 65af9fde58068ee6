"""The metrics page: built in a thread, one at a time, and shared by all who wait for it."""

import asyncio
import contextlib
import ctypes
import gzip
import re
import sys

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

# For sys.setswitchinterval: how long a page that is being built may keep the interpreter from a thread that wants it.
# An event asks for it several times. With 10,000 series scraped back to back, 400 events a second wait 70 ms (median;
# 200 at most) at Python's 5 ms, 1.2 (65) at 0.5 ms and 0.6 (14) at 0.2 ms; less does not help. Scrapes take as long.
_SWITCH_INTERVAL_S = 0.0002
# For mallopt(3). glibc keeps large blocks apart from the heap, but moves the bound up as they are freed, unless told
# what it is: then pages come to lie between what lives longer. And each thread gets a heap of its own. Without these
# two, 10,000 series under load took 4 MB more after three minutes than after half a minute.
_MALLOC_OPTIONS = {-3: 128 * 1024, -8: 1}  # M_MMAP_THRESHOLD, in bytes, and M_ARENA_MAX, of malloc.h
_OPENMETRICS = "application/openmetrics-text"
_NOT_ACCEPTABLE = re.compile(r";\s*q\s*=\s*0(\.0*)?\s*(;|$)")  # a weight of 0 (RFC 9110, 12.4.2)
# What choose_encoder is asked for. With this escaping prometheus_client 0.26 takes two thirds of its time without, for
# the same text: no name of ours needs any. Older releases do not know it.
_ASKED = {False: "", True: f"{_OPENMETRICS}; version=1.0.0; escaping=allow-utf-8"}


def set_up_interpreter() -> None:
    """For pages that hold up nobody while they are built, and leave nothing behind. Before the first thread starts."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with contextlib.suppress(AttributeError):  # musl has no mallopt(3)
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _MALLOC_OPTIONS.items():
            mallopt(option, value)


def accepts(header: str, *names: str) -> bool:
    """Whether an Accept or Accept-Encoding header names one of these with a weight above 0."""
    choices = header.lower().split(",")
    return any(choice.split(";")[0].strip() in names and not _NOT_ACCEPTABLE.search(choice) for choice in choices)


class Pages:
    """Pages of a registry. A request is never answered with counts older than itself.

    So it waits for the first build that begins after it; and so do all that come before that build begins. A thousand
    requests at once cost two builds: the one that is running, and the one that they share.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._to_begin: dict[tuple[bool, bool], asyncio.Task[bytes]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def get(self, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        """The body and the headers for a request with these headers."""
        # Text or OpenMetrics, and no more. choose_encoder knows dialects besides (escaping=, version=), each a build of
        # its own; and a version that is no number makes its newer releases raise.
        openmetrics = accepts(accept, _OPENMETRICS)
        _, content_type = choose_encoder(_ASKED[openmetrics])
        zipped = accepts(accept_encoding, "gzip", "x-gzip")
        kind = openmetrics, zipped
        build = self._to_begin.get(kind)
        if build is None:
            build = self._to_begin[kind] = asyncio.create_task(self._build(kind))
        body = await asyncio.shield(build)  # a client that goes away does not stop it for the others
        encoding = {"Content-Encoding": "gzip"} if zipped else {}
        return body, {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding", **encoding}

    async def _build(self, kind: tuple[bool, bool]) -> bytes:
        async with self._one_at_a_time:
            del self._to_begin[kind]
            return await asyncio.to_thread(self._encode, *kind)

    def _encode(self, openmetrics: bool, zipped: bool) -> bytes:
        encoder, _ = choose_encoder(_ASKED[openmetrics])
        text = encoder(self._registry)
        # Of 10,000 series, in 2 to 3 ms; the default level takes twice as long to save a tenth of the bytes.
        return gzip.compress(text, compresslevel=1, mtime=0) if zipped else text
