"""JSON lines over a unix socket, with descriptors riding along: how supervisor and controller talk."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any

_LINE_MAX_BYTES = 4 << 20
_FDS_MAX = 64


class WireClosed(Exception):
    """The other side is gone."""


class Wire:
    """One end of a conversation. Messages are JSON objects, one a line; `fds` travel with the message they belong to.

    Descriptors that arrive are owned by the receiver.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""
        self._fds: list[int] = []

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Send one message; WireClosed when nobody listens or does not read within the socket's timeout."""
        data = json.dumps(message | ({"fds": len(fds)} if fds else {}), separators=(",", ":")).encode() + b"\n"
        try:
            if fds:
                sent = socket.send_fds(self.sock, [data], fds)
                data = data[sent:]
            if data:
                self.sock.sendall(data)
        except OSError as error:
            raise WireClosed(str(error)) from error

    def receive(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Read once and give every whole message that has arrived; WireClosed at the end of the conversation.

        An empty list means that more is to come (or that a timeout passed).
        """
        try:
            data, fds, _flags, _address = socket.recv_fds(self.sock, 1 << 16, _FDS_MAX)
        except (BlockingIOError, TimeoutError):
            return []
        except OSError as error:
            raise WireClosed(str(error)) from error
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds += fds
        if not data:
            raise WireClosed("closed")
        self._buffer += data
        if len(self._buffer) > _LINE_MAX_BYTES:
            raise WireClosed("message too large")
        *lines, self._buffer = self._buffer.split(b"\n")
        messages = []
        for line in lines:
            message = json.loads(line)
            count = message.pop("fds", 0)
            mine, self._fds = self._fds[:count], self._fds[count:]
            messages.append((message, mine))
        return messages

    def close(self) -> None:
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.sock.close()


def connect(path: str, timeout_s: float) -> Wire:
    """Connect to a unix socket; OSError when nobody listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return Wire(sock)


def serve(path: str) -> socket.socket:
    """A listening unix socket of mode 0600; a stale file of that name is replaced."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    sock.listen(16)
    return sock
