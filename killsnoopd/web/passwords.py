"""Whether a password is right, without a stranger's guesses keeping anyone waiting.

bcrypt takes 50 to 200 ms by design (cost 10 to 12). So one thread checks, whatever comes in; a password that was right
is remembered, as a keyed hash; and each peer can have a few guesses waiting, no more, so that others get their turn.
"""

import asyncio
import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

WAITING_PER_PEER = 4
_BCRYPT_BYTES = 72  # bcrypt reads no more of a password; bcrypt 5 raises ValueError on more


class Busy(Exception):
    """The peer has so many guesses waiting that this one is not looked at."""


class Passwords:
    """Checks by `checkpw(password, hash) -> bool`, bcrypt's, in a thread of its own, started at the first one."""

    def __init__(self, checkpw: Callable[[bytes, bytes], bool]) -> None:
        self._checkpw = checkpw
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, bytes] = {}  # user to the keyed hash of what was right
        self._waiting: Counter[str] = Counter()  # by peer
        self._thread = ThreadPoolExecutor(1, "passwords")

    async def right(self, users: Mapping[bytes, bytes], user: bytes, password: bytes, peer: str) -> bool:
        """Whether `users`, name to bcrypt hash, has this user with this password; raises Busy."""
        hashed = users.get(user) or self._somebodys(users, user)
        password = password[:_BCRYPT_BYTES]
        proof = self._keyed(repr((user, hashed, password)).encode())
        if user in users and hmac.compare_digest(self._right.get(user, b""), proof):
            return True
        if self._waiting[peer] >= WAITING_PER_PEER:
            raise Busy
        self._waiting[peer] += 1
        try:
            matches = await asyncio.get_running_loop().run_in_executor(self._thread, self._check, password, hashed)
        finally:
            self._waiting[peer] -= 1
            if not self._waiting[peer]:
                del self._waiting[peer]
        if matches and user in users:
            self._right[user] = proof
            return True
        return False

    def forget(self) -> None:
        """Of users that may be no more."""
        self._right.clear()

    def close(self) -> None:
        """Checks that wait are not made."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _somebodys(self, users: Mapping[bytes, bytes], user: bytes) -> bytes:
        """For a user who does not exist the hash of one who does, always the same: it takes as long as if they did."""
        hashes = sorted(users.values())
        return hashes[int.from_bytes(self._keyed(user)[:8], "big") % len(hashes)]

    def _keyed(self, message: bytes) -> bytes:
        return hmac.digest(self._key, message, "sha256")

    def _check(self, password: bytes, hashed: bytes) -> bool:
        try:
            return self._checkpw(password, hashed)
        except ValueError:  # a NUL in a password, before bcrypt 4
            return False
