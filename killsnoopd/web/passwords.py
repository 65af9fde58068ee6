"""Verifies passwords, so that guesses by one peer do not delay other peers.

bcrypt takes 50 to 200 ms by design (cost 10 to 12). So a single thread runs it, correct passwords are cached as a keyed
hash, and each peer may have only a few attempts waiting.
"""

import asyncio
import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

WAITING_PER_PEER = 4
_BCRYPT_BYTES = 72  # bcrypt reads no more of a password; bcrypt 5 raises ValueError on more


class TooManyAttempts(Exception):
    """The peer already has WAITING_PER_PEER attempts waiting."""


class Passwords:
    """Verifies with bcrypt's `checkpw(password, hash) -> bool` in its own thread, which the first attempt starts."""

    def __init__(self, checkpw: Callable[[bytes, bytes], bool]) -> None:
        self._checkpw = checkpw
        self._key = secrets.token_bytes(32)
        self._verified: dict[bytes, bytes] = {}  # user to the keyed hash of the correct password
        self._waiting: Counter[str] = Counter()  # by peer
        self._thread = ThreadPoolExecutor(1, "passwords")

    async def verify(self, users: Mapping[bytes, bytes], user: bytes, password: bytes, peer: str) -> bool:
        """Whether the password is correct; `users` maps names to bcrypt hashes. Raises TooManyAttempts."""
        hashed = users.get(user) or self._decoy_hash(users, user)
        password = password[:_BCRYPT_BYTES]
        mac = self._mac(repr((user, hashed, password)).encode())
        if user in users and hmac.compare_digest(self._verified.get(user, b""), mac):
            return True
        if self._waiting[peer] >= WAITING_PER_PEER:
            raise TooManyAttempts
        self._waiting[peer] += 1
        try:
            matches = await asyncio.get_running_loop().run_in_executor(self._thread, self._check, password, hashed)
        finally:
            self._waiting[peer] -= 1
            if not self._waiting[peer]:
                del self._waiting[peer]
        if matches and user in users:
            self._verified[user] = mac
            return True
        return False

    def forget(self) -> None:
        """Clear the cache: users may have changed."""
        self._verified.clear()

    def close(self) -> None:
        """Stop the thread and cancel waiting attempts."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _decoy_hash(self, users: Mapping[bytes, bytes], user: bytes) -> bytes:
        """An existing user's hash for an unknown user, always the same one, so that the check takes equally long."""
        hashes = sorted(users.values())
        return hashes[int.from_bytes(self._mac(user)[:8], "big") % len(hashes)]

    def _mac(self, message: bytes) -> bytes:
        return hmac.digest(self._key, message, "sha256")

    def _check(self, password: bytes, hashed: bytes) -> bool:
        try:
            return self._checkpw(password, hashed)
        except ValueError:  # a NUL in a password, before bcrypt 4
            return False
