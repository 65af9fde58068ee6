"""Passes kernel objects and plain values, or a Failure, from a child process to its parent through a socket."""

from __future__ import annotations

import array
import json
import socket
from typing import Any

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe.objects import Objects

_FDS_MAX = 64  # file descriptors in one message; a probe has about thirty


def send(peer: socket.socket, values: dict[str, Any], objects: Objects) -> None:
    """Send values as JSON, and file descriptors, through the stream socket `peer`. Raises OSError."""
    kinds = objects.kinds()
    content = json.dumps({"values": values, "objects": {kind: list(fds) for kind, fds in kinds.items()}}).encode()
    numbers = array.array("i", [fd for fds in kinds.values() for fd in fds.values()])
    # The file descriptors travel with the first bytes.
    sent = peer.sendmsg([content], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else [])
    peer.sendall(content[sent:])


def send_failure(peer: socket.socket, failure: Failure) -> None:
    """Send a Failure, which receive() raises. Raises OSError."""
    error = {"line": str(failure), "exit": failure.exit_code, "details": failure.details}
    peer.sendall(json.dumps({"error": error}).encode())


def receive(peer: socket.socket) -> tuple[dict[str, Any], Objects] | None:
    """Receive values and objects, which the caller closes; None if the peer ended without sending anything.

    Raises the Failure that the peer sent.
    """
    content, numbers, _, _ = socket.recv_fds(peer, 1 << 16, _FDS_MAX, socket.MSG_CMSG_CLOEXEC)
    while part := peer.recv(1 << 16):
        content += part
    if not content:
        return None
    answer = json.loads(content)
    if "error" in answer:
        error = answer["error"]
        raise Failure(Exit(error["exit"]), error["line"], error["details"])
    fds = iter(numbers)
    objects = Objects(**{kind: {name: next(fds) for name in names} for kind, names in answer["objects"].items()})
    return answer["values"], objects
