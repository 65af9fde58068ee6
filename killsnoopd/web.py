"""The HTTP side: the metrics page, a landing page, a health check."""

import socket
from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from killsnoopd import __version__
from killsnoopd.failure import Exit, Failure

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


def application(registry: CollectorRegistry, telemetry_path: str) -> web.Application:
    """`/`, the metrics and `/-/healthy`, for GET and HEAD; 404 and 405 for all else."""

    async def metrics(request: web.Request) -> web.Response:
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        response = web.Response(body=encoder(registry), headers={"Content-Type": content_type})
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def landing(_request: web.Request) -> web.Response:
        page = _LANDING.format(version=__version__, path=telemetry_path)
        return web.Response(text=page, content_type="text/html")

    async def healthy(_request: web.Request) -> web.Response:
        return web.Response(text="killsnoopd is healthy.\n")

    result = web.Application(client_max_size=0)
    result.router.add_get("/-/healthy", healthy)
    result.router.add_get(telemetry_path, metrics)
    if telemetry_path != "/":
        result.router.add_get("/", landing)
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
