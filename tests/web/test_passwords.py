"""A correct password is hashed once, and no peer can fill the queue."""

import asyncio
import threading

import pytest

from killsnoopd.web.passwords import WAITING_PER_PEER, Passwords, TooManyAttempts

USERS = {b"alice": b"hash of right", b"bob": b"hash of other"}


class Checks:
    """Takes the place of bcrypt's checkpw; waits while `held`."""

    def __init__(self):
        self.hashes = []
        self.held = threading.Event()
        self.held.set()

    def __call__(self, password, hashed):
        self.hashes.append(hashed)
        assert self.held.wait(10)
        if b"\0" in password:
            raise ValueError("bcrypt before 4")
        return hashed == b"hash of " + password


@pytest.fixture
def checks():
    return Checks()


@pytest.fixture
def passwords(checks):
    made = Passwords(checks)
    yield made
    made.close()


def verify(passwords, *attempts, peer="192.0.2.1"):
    """Verify these users and passwords, one after the other."""

    async def each():
        return [await passwords.verify(USERS, user, password, peer) for user, password in attempts]

    return asyncio.run(each())


def test_right_and_wrong(passwords):
    attempts = [(b"alice", b"right"), (b"alice", b"other"), (b"carol", b"right"), (b"bob", b"other"), (b"bob", b"\0")]
    assert verify(passwords, *attempts) == [True, False, False, True, False]


def test_a_correct_password_is_hashed_once(passwords, checks):
    """Until the users may have changed. A wrong password is hashed each time."""
    assert verify(passwords, *[(b"alice", b"right")] * 3) == [True] * 3
    assert len(checks.hashes) == 1
    assert verify(passwords, *[(b"alice", b"wrong")] * 3) == [False] * 3
    assert len(checks.hashes) == 4
    passwords.forget()
    assert verify(passwords, (b"alice", b"right")) == [True]
    assert len(checks.hashes) == 5


def test_only_what_bcrypt_reads(passwords, checks):
    """Bcrypt 5 raises an exception if a password has more than 72 bytes."""
    seen = []
    passwords._checkpw = lambda password, _: seen.append(password)
    verify(passwords, (b"alice", b"x" * 100))
    assert seen == [b"x" * 72]


def test_an_unknown_user_is_checked_against_the_same_hash_each_time(passwords, checks):
    """So that the time does not show which users exist."""
    verify(passwords, *[(b"carol", b"x")] * 4)
    assert len(checks.hashes) == 4
    assert set(checks.hashes) < set(USERS.values())


def test_the_queue_of_a_peer(passwords, checks):
    """Each peer has its own, and a finished attempt makes room."""

    async def main():
        checks.held.clear()
        first = [
            asyncio.create_task(passwords.verify(USERS, b"alice", b"guess", "192.0.2.1"))
            for _ in range(WAITING_PER_PEER)
        ]
        await asyncio.sleep(0)
        with pytest.raises(TooManyAttempts):
            await passwords.verify(USERS, b"alice", b"guess", "192.0.2.1")
        other = asyncio.create_task(passwords.verify(USERS, b"bob", b"other", "192.0.2.2"))
        await asyncio.sleep(0)
        checks.held.set()
        assert await asyncio.gather(*first, other) == [False] * WAITING_PER_PEER + [True]
        assert await passwords.verify(USERS, b"alice", b"right", "192.0.2.1")

    asyncio.run(main())
