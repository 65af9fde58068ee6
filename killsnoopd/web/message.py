"""HTTP/1 messages: parses requests with h11 and encodes responses.

Requests that h11 accepts but that the port never serves are refused here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPMethod, HTTPStatus

import h11

HEADER_BYTES = 16384
TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_LINES, _LINE_BYTES = 100, 8190  # limits of a header: Apache's defaults
_BLANKS = re.compile(rb"[ \t]{2,}")
# Origin form or absolute form (RFC 9112, 3.2): scheme and authority, path.
_TARGET = re.compile(rb"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?([^?#]*)")


@dataclass(frozen=True)
class Response:
    """A response; encode() adds the headers that all responses have."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    status: HTTPStatus = HTTPStatus.OK


class Refused(Exception):
    """The request gets an error response, and is counted under `reason` if there is one."""

    def __init__(
        self, status: HTTPStatus, reason: str = "", text: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status.phrase)
        body = text or f"{status.value}: {status.phrase}\n"
        self.reason = reason
        self.response = Response(body.encode(), {**TEXT, **(headers or {})}, status)


def complete(received: bytes | bytearray) -> bool:
    """Whether to stop reading: the header has ended, is too long, or is not HTTP (TLS to a plain port, garbage)."""
    return (
        b"\r\n\r\n" in received
        or len(received) >= HEADER_BYTES
        or (len(received) > 0 and not received[:1].isalpha() and received[0] not in b"\r\n")
    )


def parse(received: bytes) -> h11.Request:
    """The request in what was received, once that is complete. Raises Refused."""
    header, end, _ = received.removeprefix(b"\r\n").partition(b"\r\n\r\n")  # RFC 9112, 2.2: one empty line may precede
    if not end and len(received) >= HEADER_BYTES:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "bad_request")
    lines = header.split(b"\n")
    if not end or len(lines) > _LINES or max(map(len, lines)) > _LINE_BYTES:
        raise Refused(HTTPStatus.BAD_REQUEST, "bad_request")
    connection = h11.Connection(h11.SERVER)
    # Collapse blanks: h11's pattern for a field takes quadratic time over a run of them, 0.7 s for 16 KiB.
    connection.receive_data(_BLANKS.sub(b" ", header) + end)
    try:
        request = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused(HTTPStatus(error.error_status_hint), "bad_request") from None
    except ValueError:  # h11 before 0.15, for a Content-Length of more than 4,300 digits
        raise Refused(HTTPStatus.BAD_REQUEST, "bad_request") from None
    if (
        not isinstance(request, h11.Request)
        or request.method.decode() not in HTTPMethod.__members__
        or not request.http_version.startswith(b"1.")
    ):
        raise Refused(HTTPStatus.BAD_REQUEST, "bad_request")
    if header_field(request, b"transfer-encoding") or header_field(request, b"content-length").strip("0"):
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "bad_request", "Requests must not have a body.\n")
    return request


def header_field(request: h11.Request, name: bytes) -> str:
    """The value of a field, by its name in lower case; repeated values are joined by commas."""
    return ", ".join(value.decode("latin-1") for found, value in request.headers if found == name)


def path(request: h11.Request) -> str:
    """The path of the request target as sent, percent-encoded."""
    match = _TARGET.match(request.target)
    return match[1].decode() if match else ""


def encode(response: Response, headers: Mapping[str, str]) -> bytes:
    """The bytes of a response before its body."""
    fields = {
        **response.headers,
        **headers,
        "Content-Length": len(response.body),
        "Date": formatdate(usegmt=True),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
