"""What comes between a request and its page: the rate limit, the password, so many scrapes at a time."""

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from killsnoopd.connection import network
from killsnoopd.connections import Connections
from killsnoopd.outbox import Outbox
from killsnoopd.passwords import Busy
from killsnoopd.web_config import WebConfig
from killsnoopd.web_config_file import WebConfigFile

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# How long a scrape waits for its turn: for the pages of those before it, of which one of 8 MB takes half a second. It
# holds one of 64 connections meanwhile, and nothing else; after STALE_S it would have to make room for others.
TURN_S = 4.0


class RateLimit:
    """rate_limit of the web configuration: a token bucket, full at first."""

    def __init__(self, interval_s: float, burst: int) -> None:
        self._interval_s, self._burst = interval_s, burst
        self._tokens, self._at_s = float(burst), time.monotonic()

    def allows(self) -> bool:
        """Whether one more request may come, which is then counted."""
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at_s) / self._interval_s)
        self._at_s = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _credentials(header: str) -> tuple[bytes, bytes] | None:
    """User and password of `Authorization: Basic ...`; None if it is nothing like that."""
    scheme, _, encoded = header.partition(" ")
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if scheme.lower() == "basic" and colon else None


class Gate:
    """An aiohttp middleware."""

    __middleware_version__ = 1  # what aiohttp's @middleware sets

    def __init__(self, config: WebConfigFile, connections: Connections, telemetry_path: str, max_requests: int) -> None:
        self._config, self._connections = config, connections
        self._telemetry_path = telemetry_path
        self._outbox = Outbox(connections.refused)
        self._turns = asyncio.Semaphore(max_requests) if max_requests else None
        self._rate: tuple[tuple[float, int], RateLimit] | None = None

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The answer of `handler`, or a refusal; in either case the connection ends with it."""
        config = self._config.fresh()
        try:
            response = await self._admitted(config, request, handler)
        except web.HTTPException as refusal:
            refusal.headers.update(config.headers)
            refusal.force_close()
            raise
        response.headers.update(config.headers)
        response.force_close()
        return await self._outbox.send(request, response) if isinstance(response, web.Response) else response

    async def _admitted(self, config: WebConfig, request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = self._connections.refused
        if request.body_exists:
            raise web.HTTPRequestEntityTooLarge(0, request.content_length or 0, text="No request has a body here.\n")
        if not self._within_rate(config):
            refused["busy"] += 1
            raise web.HTTPTooManyRequests
        if config.users:
            await self._authorize(config, request)
        if request.path != self._telemetry_path or not self._turns:
            return await handler(request)
        try:
            await asyncio.wait_for(self._turns.acquire(), TURN_S)
        except TimeoutError:
            refused["busy"] += 1
            raise web.HTTPServiceUnavailable(
                text="As many scrapes as --web.max-requests allows are being answered.\n"
            ) from None
        try:
            return await handler(request)
        finally:
            self._turns.release()

    def _within_rate(self, config: WebConfig) -> bool:
        if config.rate is None:
            self._rate = None
            return True
        if self._rate is None or self._rate[0] != config.rate:
            self._rate = (config.rate, RateLimit(*config.rate))
        return self._rate[1].allows()

    async def _authorize(self, config: WebConfig, request: web.Request) -> None:
        refused = self._connections.refused
        given = _credentials(request.headers.get("Authorization", ""))
        try:
            if given and await self._config.passwords.right(config.users, *given, network(request.remote or "")):
                return
        except Busy:
            refused["busy"] += 1
            raise web.HTTPTooManyRequests(
                headers={"Retry-After": "1"}, text="Other passwords from this address are being checked.\n"
            ) from None
        refused["unauthorized"] += 1
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="killsnoopd", charset="UTF-8"'})
