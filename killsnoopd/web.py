"""The HTTP side: the metrics page, a landing page, a health check; aiohttp, behind bounds of our own."""

import logging
import socket
from collections import Counter
from collections.abc import Iterable

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry

from killsnoopd import __version__
from killsnoopd.connections import Connections
from killsnoopd.failure import Exit, Failure
from killsnoopd.middleware import Gate
from killsnoopd.page import Pages
from killsnoopd.web_config_file import WebConfigFile

log = logging.getLogger("killsnoopd")

_CLOSE_S = 0.2  # for answers that are under way when told to stop

_LANDING = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>killsnoopd</title></head>
<body>
<h1>killsnoopd</h1>
<p>Who sent that signal? Version {version}.</p>
<p><a href="{path}">Metrics</a></p>
</body>
</html>
"""


def application(registry: CollectorRegistry, telemetry_path: str, gate: Gate) -> web.Application:
    """`/`, the metrics and `/-/healthy`, for GET and HEAD; 404 and 405 for all else."""
    pages = Pages(registry)

    async def metrics(request: web.Request) -> web.Response:
        accept, accept_encoding = (request.headers.get(name, "") for name in ("Accept", "Accept-Encoding"))
        body, headers = await pages.get(accept, accept_encoding)
        return web.Response(body=body, headers=headers)

    async def landing(_request: web.Request) -> web.Response:
        page = _LANDING.format(version=__version__, path=telemetry_path)
        return web.Response(text=page, content_type="text/html")

    async def healthy(_request: web.Request) -> web.Response:
        return web.Response(text="killsnoopd is healthy.\n")

    result = web.Application(client_max_size=0, middlewares=[gate])
    result.router.add_get("/-/healthy", healthy)
    result.router.add_get(telemetry_path, metrics)
    if telemetry_path != "/":
        result.router.add_get("/", landing)
    return result


class Server:
    """Answers on listening sockets from `start` to `close`; the sockets stay the caller's to close."""

    def __init__(
        self, registry: CollectorRegistry, telemetry_path: str, config: WebConfigFile, max_requests: int = 0
    ) -> None:
        self._config = config
        self._connections = Connections(self._protocol, config.tls, config.admits)
        gate = Gate(config, self._connections, telemetry_path, max_requests)
        registry.register(self._connections)
        # One request a connection, whose body is not waited for. A client's mistake is no error of ours to log.
        self._runner = web.AppRunner(
            application(registry, telemetry_path, gate),
            access_log=log,
            access_log_class=type("BadRequests", (_BadRequests,), {"refused": self._connections.refused}),
            logger=_quiet_logger(),
            keepalive_timeout=0,
            lingering_time=0,
        )

    def _protocol(self) -> web.RequestHandler:
        if self._runner.server is None:
            raise ConnectionError  # it is being closed
        return self._runner.server()

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Listen and accept."""
        await self._runner.setup()
        self._connections.start(sockets)

    async def close(self) -> None:
        """Accept no more; what is being answered has a moment."""
        await self._connections.close(_CLOSE_S)
        await self._runner.cleanup()
        self._config.passwords.close()


class _BadRequests(AbstractAccessLogger):
    """aiohttp tells of each answer; those to what it could not parse are not ours to give, but ours to count."""

    refused: Counter[str]

    def log(self, _request: web.BaseRequest, response: web.StreamResponse, _time: float) -> None:
        """Called by aiohttp once an answer is given."""
        if response.status in (400, 413):
            self.refused["bad_request"] += 1


def _quiet_logger() -> logging.Logger:
    """For aiohttp, which would log what it could not parse, and who went away. What fails in our pages is logged."""
    result = logging.getLogger("killsnoopd.http")

    def is_ours(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        # aiohttp asserts that a client is still there when its request's turn comes; we assert nothing.
        return not isinstance(error, HttpProcessingError | ConnectionError | AssertionError)

    result.filters = [is_ours]
    return result


def listen(addresses: Iterable[tuple[str, int]]) -> list[socket.socket]:
    """Sockets bound to host and port; host `""` is every address, IPv6 and IPv4. They accept nothing yet."""
    sockets: list[socket.socket] = []
    try:
        for host, port in addresses:
            sockets.append(_bind(host, port))
    except OSError as error:
        for bound in sockets:
            bound.close()
        why = "another program listens there" if error.errno == 98 else error.strerror
        raise Failure(
            Exit.OSERR, f"cannot listen on {host}:{port} ({why}): choose another --web.listen-address"
        ) from None
    return sockets


def _bind(host: str, port: int) -> socket.socket:
    if not host:
        if socket.has_dualstack_ipv6():
            family, address = socket.AF_INET6, ("::", port)
        else:
            family, address = socket.AF_INET, ("0.0.0.0", port)
    else:
        family, _, _, _, address = socket.getaddrinfo(  # type: ignore[assignment]
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not host and family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
        bound.setblocking(False)
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
