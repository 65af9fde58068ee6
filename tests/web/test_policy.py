"""Rate limit, authentication, and the slots for scrapes."""

import asyncio
import base64

import h11
import pytest

from killsnoopd.web import policy
from killsnoopd.web.config import WebConfig
from killsnoopd.web.message import Refused
from killsnoopd.web.passwords import Passwords
from killsnoopd.web.policy import Policy, TokenBucket


def request(authorization=None):
    headers = [("Host", "localhost")]
    if authorization is not None:
        headers.append(("Authorization", authorization))
    return h11.Request(method="GET", target="/metrics", headers=headers)


def basic(text):
    return "Basic " + base64.b64encode(text).decode()


@pytest.fixture
def made():
    passwords = Passwords(lambda password, hashed: password == hashed)
    yield Policy(passwords, 1)
    passwords.close()


def answers(made, config, *requests):
    """The status of the answer to each request, 200 for those that are admitted."""

    async def each():
        found = []
        for asked in requests:
            try:
                await made.admit(config, asked, "192.0.2.1")
                found.append(200)
            except Refused as refused:
                found.append(refused.response.status)
        return found

    return asyncio.run(each())


def test_a_bucket(monkeypatch):
    """It is full at first, and gains a token for each interval, but no more than it holds."""
    now = 100.0
    monkeypatch.setattr(policy.time, "monotonic", lambda: now)
    bucket = TokenBucket(interval_s=10, burst=2)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now += 9
    assert not bucket.take()
    now += 1
    assert [bucket.take() for _ in range(2)] == [True, False]
    now += 1000
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_the_rate_limit(made):
    """It holds for all requests together; a changed limit holds at once, from a full bucket."""
    slow, wide = WebConfig(rate=(3600.0, 2)), WebConfig(rate=(3600.0, 3))
    assert answers(made, slow, *[request()] * 3) == [200, 200, 429]
    assert answers(made, wide, *[request()] * 4) == [200, 200, 200, 429]
    assert answers(made, WebConfig(), *[request()] * 9) == [200] * 9


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (basic(b"alice:secret"), 200),
        ("bAsIc  " + basic(b"alice:secret").split()[1], 200),
        (basic(b"alice:wrong"), 401),
        (basic(b"alice:with:colons"), 401),
        (basic(b"bob:with:colons"), 200),
        (basic(b"nobody:secret"), 401),
        (basic(b"alice"), 401),
        (None, 401),
        ("", 401),
        ("Basic", 401),
        ("Basic !", 401),
        ("Basic \N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1"), 401),
        ("Bearer " + basic(b"alice:secret").split()[1], 401),
    ],
)
def test_users(made, authorization, status):
    config = WebConfig(users={b"alice": b"secret", b"bob": b"with:colons"})
    assert answers(made, config, request(authorization)) == [status]


def test_slots_for_scrapes(made, monkeypatch):
    """The second waits for the first, for a limited time."""

    async def main():
        monkeypatch.setattr(policy, "SLOT_S", 0.05)
        async with made.scrape():
            with pytest.raises(Refused) as refused:
                async with made.scrape():
                    pytest.fail("two at a time")
        assert refused.value.response.status == 503
        with pytest.raises(ZeroDivisionError):
            async with made.scrape():
                raise ZeroDivisionError
        async with made.scrape():  # a scrape that failed has left its slot
            pass

    asyncio.run(main())
