"""From a child process to its parent, through a socket: kernel objects, plain values, or a Failure."""

import array
import json
import socket
from typing import Any

from killsnoopd.failure import Exit, Failure
from killsnoopd.probe.objects import Objects

_FDS_MAX = 64  # of one message; there are some thirty maps, programs and links


def send(peer: socket.socket, values: dict[str, Any], objects: Objects) -> None:
    """Send values that JSON can hold, and file descriptors; `peer` is a stream socket. Raises OSError."""
    kinds = objects.kinds()
    content = json.dumps({"values": values, "objects": {kind: list(fds) for kind, fds in kinds.items()}}).encode()
    numbers = array.array("i", [fd for fds in kinds.values() for fd in fds.values()])
    # The descriptors go with the first bytes.
    sent = peer.sendmsg([content], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else [])
    peer.sendall(content[sent:])


def send_failure(peer: socket.socket, failure: Failure) -> None:
    """Send what receive() then raises. Raises OSError."""
    error = {"line": str(failure), "exit": failure.exit_code, "details": failure.details}
    peer.sendall(json.dumps({"error": error}).encode())


def receive(peer: socket.socket) -> tuple[dict[str, Any], Objects] | None:
    """What was sent: values and objects, which the caller closes; None if the peer ended without a word.

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
