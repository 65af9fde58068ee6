"""HTTP messages: parsing, refusing, encoding. tests/web/test_connections.py sends them to a port."""

from email.utils import parsedate_to_datetime
from http import HTTPStatus

import pytest

from killsnoopd.web import message
from killsnoopd.web.message import HEADER_BYTES, Refused, Response

HOST = b"Host: x\r\n"


def parse(line, fields=HOST):
    return message.parse(line + b"\r\n" + fields + b"\r\n")


@pytest.mark.parametrize(
    ("received", "complete"),
    [
        (b"", False),
        (b"\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", False),
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"G" * (HEADER_BYTES - 1), False),
        (b"G" * HEADER_BYTES, True),
        (b"\x16\x03\x01", True),
        (b"\0", True),
        (b" GET", True),
    ],
)
def test_when_to_stop_reading(received, complete):
    """At the end of a header, at its limit, and at anything that is not HTTP."""
    assert message.complete(received) == complete


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/metrics", "/metrics"),
        (b"/metrics?name=x", "/metrics"),
        (b"/metrics#x", "/metrics"),
        (b"http://x/metrics", "/metrics"),
        (b"HTTPS://user@[::1]:1/metrics?x#y", "/metrics"),
        (b"http://x", ""),
        (b"//x/metrics", "//x/metrics"),
        (b"/http://x/metrics", "/http://x/metrics"),
        (b"/%6detrics", "/%6detrics"),
        (b"*", "*"),
    ],
)
def test_path(target, path):
    """From targets in origin form and in absolute form, without the query."""
    assert message.path(parse(b"GET " + target + b" HTTP/1.1")) == path


@pytest.mark.parametrize(
    "fields",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        b"Expect: 100-continue\r\n",
        b"Content-Length: 0\r\n",
        b"X: a\r\n folded\r\n",
        b"X:\r\n",
        b"X: \xff\xfe\r\n",
        b"X: " + b"a" * 8180 + b"\r\n",
        b"X: a\r\n" * 98,
    ],
    ids=lambda fields: fields[:20],
)
def test_a_request_that_is_served(fields):
    """Whatever else it offers or asks for."""
    assert parse(b"GET /metrics HTTP/1.1", HOST + fields).method == b"GET"
    assert message.parse(b"\r\nHEAD / HTTP/1.0\r\n" + fields + b"\r\n").method == b"HEAD"


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /metrics HTTP/0.9\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.11\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /metrics HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400),
        (b"GET\t/metrics\tHTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 99 + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"1" * 5000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n", 413),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /" + b"a" * HEADER_BYTES, 431),
        (b"\x16\x03\x01\x02\x00", 400),
    ],
    ids=lambda value: repr(value[-30:]) if isinstance(value, bytes) else None,
)
def test_a_request_that_is_refused(received, status):
    """With this status, and counted."""
    with pytest.raises(Refused) as refused:
        message.parse(received)
    assert refused.value.response.status == status
    assert refused.value.reason == "bad_request"


def test_a_repeated_field_is_a_list():
    """Accept-Encoding: br and Accept-Encoding: gzip say the same as Accept-Encoding: br, gzip."""
    request = parse(b"GET / HTTP/1.1", HOST + b"Accept-Encoding: br\r\nX: y\r\naccept-encoding:  gzip \r\n")
    assert message.header_field(request, b"accept-encoding") == "br, gzip"
    assert message.header_field(request, b"accept") == ""


def test_encode():
    """Status, the page's fields, the configured fields, and the fields that end each response."""
    response = Response(b"gone\n", {"Content-Type": "text/plain"}, HTTPStatus.NOT_FOUND)
    configured = {"X-Frame-Options": "deny", "Content-Security-Policy": "caf\u00e9"}
    lines = message.encode(response, configured).decode().split("\r\n")
    date = lines.pop(5)
    assert lines == [
        "HTTP/1.1 404 Not Found",
        "Content-Type: text/plain",
        "X-Frame-Options: deny",
        "Content-Security-Policy: caf\u00e9",
        "Content-Length: 5",
        "Connection: close",
        "",
        "",
    ]
    assert date.endswith(" GMT")
    assert parsedate_to_datetime(date.removeprefix("Date: ")).tzinfo
