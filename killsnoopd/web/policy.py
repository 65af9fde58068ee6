"""Rate limit, authentication and scrape concurrency."""

import asyncio
import base64
import binascii
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import h11

from killsnoopd.web.config import WebConfig
from killsnoopd.web.message import Refused, header_field
from killsnoopd.web.passwords import Passwords, TooManyAttempts

# How long a scrape waits for a slot, while the pages of earlier scrapes are built; 8 MB take half a second. It holds
# one of 64 connections meanwhile. After STALE_S that connection would count as idle.
SLOT_S = 4.0


class TokenBucket:
    """rate_limit of the web configuration; initially full."""

    def __init__(self, interval_s: float, burst: int) -> None:
        self._interval_s, self._burst = interval_s, burst
        self._tokens, self._at_s = float(burst), time.monotonic()

    def take(self) -> bool:
        """Take a token; False if there is none."""
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at_s) / self._interval_s)
        self._at_s = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Policy:
    """Decides whether to serve a request; raises Refused if not."""

    def __init__(self, passwords: Passwords, max_requests: int) -> None:
        self._passwords = passwords
        self._slots = asyncio.Semaphore(max_requests or sys.maxsize)
        self._rate: tuple[float, int] | None = None
        self._bucket: TokenBucket | None = None

    async def admit(self, config: WebConfig, request: h11.Request, peer: str) -> None:
        """Apply the rate limit and the users of the web configuration to a request."""
        if config.rate != self._rate:
            self._rate, self._bucket = config.rate, TokenBucket(*config.rate) if config.rate else None
        if self._bucket and not self._bucket.take():
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "busy")
        if not config.users:
            return
        given = _credentials(header_field(request, b"authorization"))
        try:
            if given and await self._passwords.verify(config.users, *given, peer):
                return
        except TooManyAttempts:
            text = "Too many passwords from this address are being checked.\n"
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "busy", text, {"Retry-After": "1"}) from None
        challenge = {"WWW-Authenticate": 'Basic realm="killsnoopd", charset="UTF-8"'}
        raise Refused(HTTPStatus.UNAUTHORIZED, "unauthorized", headers=challenge)

    @asynccontextmanager
    async def scrape(self) -> AsyncIterator[None]:
        """Hold one of the slots of --web.max-requests."""
        try:
            async with asyncio.timeout(SLOT_S):
                await self._slots.acquire()
        except TimeoutError:
            text = "Too many scrapes at a time (--web.max-requests).\n"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "busy", text) from None
        try:
            yield
        finally:
            self._slots.release()


def _credentials(authorization: str) -> tuple[bytes, bytes] | None:
    """User and password of `Basic ...`; None if it is anything else."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if scheme.lower() == "basic" and colon else None
