"""The HTTP server: the metrics page, a landing page, a health check."""

import errno
import logging
import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import h11
from prometheus_client import CollectorRegistry

from killsnoopd.failure import Exit, Failure, unforeseen
from killsnoopd.metrics.overview import Overview
from killsnoopd.metrics.page import Pages
from killsnoopd.web import landing, message
from killsnoopd.web.config_file import WebConfigFile
from killsnoopd.web.connections import Connections
from killsnoopd.web.message import Refused, Response
from killsnoopd.web.policy import Policy

log = logging.getLogger("killsnoopd")

_HEALTHY = "/-/healthy"
_CLOSE_S = 0.2  # time at stop for clients to read their responses


class Server:
    """Serves on listening sockets from start() to close(). The caller closes the sockets."""

    def __init__(
        self,
        registry: CollectorRegistry,
        overview: Callable[[], Overview],
        telemetry_path: str,
        config: WebConfigFile,
        max_requests: int = 0,
    ) -> None:
        """`overview` is called in a thread, for each landing page."""
        self._config = config
        self._connections = Connections(self.respond, config.tls, config.admits)
        self._policy = Policy(config.passwords, max_requests)
        self._metrics = Pages(registry)
        self._overview, self._telemetry_path = overview, quote(telemetry_path)
        registry.register(self._connections)

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Listen and accept."""
        self._connections.start(sockets)

    async def close(self) -> None:
        """Stop accepting; give clients a moment to read their responses."""
        await self._connections.close(_CLOSE_S)
        self._config.passwords.close()

    async def respond(self, header: bytes, peer: str) -> tuple[bytes, bytes]:
        """The head and the body of the response to a header; the body is empty for HEAD."""
        config = self._config.fresh()
        try:
            request = message.parse(header)
            await self._policy.admit(config, request, peer)
            response = await self._page(request)
        except Refused as refusal:
            if refusal.reason:
                self._connections.refused[refusal.reason] += 1
            response = refusal.response
        except Exception as error:
            bug = unforeseen(error)
            log.debug("%s", bug.details)
            log.error("a request failed: %s", bug)
            response = Refused(HTTPStatus.INTERNAL_SERVER_ERROR).response
        head_only = header.lstrip(b"\r\n").startswith(b"HEAD ")
        return message.encode(response, config.headers), b"" if head_only else response.body

    async def _page(self, request: h11.Request) -> Response:
        path = message.path(request)
        if path not in ("/", self._telemetry_path, _HEALTHY):
            raise Refused(HTTPStatus.NOT_FOUND)
        if request.method not in (b"GET", b"HEAD"):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD"})
        if path == _HEALTHY:
            return Response(b"killsnoopd is healthy.\n", message.TEXT)
        async with self._policy.scrape():
            if path == "/":
                return Response(await self._metrics.share(path, self._landing), landing.HEADERS)
            wanted = (message.header_field(request, name) for name in (b"accept", b"accept-encoding"))
            return Response(*await self._metrics.get(*wanted))

    def _landing(self) -> bytes:
        return landing.html(self._overview(), self._telemetry_path, _HEALTHY).encode()


def listen(addresses: Iterable[tuple[str, int]]) -> list[socket.socket]:
    """Sockets bound to host and port, not listening yet; host `""` is every address, IPv6 and IPv4."""
    sockets: list[socket.socket] = []
    try:
        for host, port in addresses:
            _bind_all(host, port, sockets)
    except OSError as error:
        for bound in sockets:
            bound.close()
        why = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
        raise Failure(
            Exit.OSERR, f"cannot listen on {host}:{port} ({why}): choose another --web.listen-address"
        ) from None
    return sockets


def _bind_all(host: str, port: int, sockets: list[socket.socket]) -> None:
    """Append a socket for each local address of a host: for localhost, 127.0.0.1 and perhaps ::1."""
    if not host:
        dual_stack = socket.has_dualstack_ipv6()
        sockets.append(_bind(socket.AF_INET6, ("::", port)) if dual_stack else _bind(socket.AF_INET, ("0.0.0.0", port)))
        return
    absent: OSError | None = None
    before = len(sockets)
    for family, _, _, _, address in dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)):
        try:
            sockets.append(_bind(family, address))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            absent = error
    if absent and len(sockets) == before:
        raise absent


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address[0] == "::":
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def address(bound: socket.socket) -> str:
    """`127.0.0.1:10035`, `[::]:10035` or a unix socket's path, for people."""
    name = bound.getsockname()
    if not isinstance(name, tuple):
        return str(name)
    return f"[{name[0]}]:{name[1]}" if bound.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
