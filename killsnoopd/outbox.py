"""Big pages on their way to those who read them, fast or slowly or not at all.

A page is handed on in slices, as it is read: however many read it, it is in memory once. Of different pages, each of
which may have a slow reader, there are HELD_BYTES at most.
"""

from asyncio import BaseTransport, WriteTransport
from collections import Counter

from aiohttp import web

HELD_BYTES = 32 << 20
_SLICE_BYTES = 1 << 16


class Outbox:
    """All pages that are being read; `refused["slow"]` counts the readers of those that had to go."""

    def __init__(self, refused: Counter[str]) -> None:
        self._refused = refused
        self._readers: dict[int, tuple[bytes, set[BaseTransport]]] = {}  # by id of the page, the oldest first

    async def send(self, request: web.Request, response: web.Response) -> web.StreamResponse:
        """The same response, in slices if it is a big one. ConnectionError: the reader is gone."""
        body, transport = response.body, request.transport
        if request.method != "GET" or not isinstance(body, bytes) or len(body) <= _SLICE_BYTES or transport is None:
            return response
        stream = web.StreamResponse(status=response.status, headers=response.headers)
        stream.content_length = len(body)
        stream.force_close()
        self._enter(body, transport)
        try:
            await stream.prepare(request)
            for begin in range(0, len(body), _SLICE_BYTES):
                await stream.write(memoryview(body)[begin : begin + _SLICE_BYTES])
            await stream.write_eof()
        finally:
            self._leave(body, transport)
        return stream

    def _enter(self, body: bytes, transport: BaseTransport) -> None:
        _, readers = self._readers.setdefault(id(body), (body, set()))
        readers.add(transport)
        held = sum(len(page) for page, _ in self._readers.values())
        for key, (page, slow) in list(self._readers.items()):
            if held <= HELD_BYTES or page is body:
                break
            held -= len(page)
            del self._readers[key]
            self._refused["slow"] += len(slow)
            for reader in slow:
                if isinstance(reader, WriteTransport):
                    reader.abort()

    def _leave(self, body: bytes, transport: BaseTransport) -> None:
        _, readers = self._readers.get(id(body), (body, set()))
        readers.discard(transport)
        if not readers:
            self._readers.pop(id(body), None)
