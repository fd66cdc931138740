"""A service at a unix socket that does what a test wants: it answers, hangs, breaks off, sends garbage."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from headway.calls.client.service import Service

Start = Callable[["Deed"], tuple["Leaf", Service]]  # gives the service, and what calls it
Deed = Callable[[socket.socket, "Call"], None]  # a request is there; an error ends its connection


class Gone(ConnectionError):
    """The caller closed its connection."""


class Call:
    """One request as it came."""

    def __init__(self, head: bytes, body: bytes, number: int) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        self.body = body
        self.number = number  # from 1


def answer(status: int = 200, body: bytes = b"", *headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status} Word", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(*answers: bytes) -> Deed:
    """Gives these answers, one a call; the last one ever after."""

    def do(connection: socket.socket, call: Call) -> None:
        connection.sendall(answers[min(call.number, len(answers)) - 1])

    return do


class Leaf:
    """The service. `do` may be replaced while it runs; `calls` is what has come."""

    def __init__(self, folder: Path, do: Deed) -> None:
        self.path = str(folder / "leaf.sock")
        self.do = do
        self.calls: list[Call] = []
        self.closed = threading.Event()  # a caller closed a connection
        self.ends = threading.Event()
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(512)
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def end(self) -> None:
        self.ends.set()
        for one in (self._socket, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._open.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError, ConnectionError):
            while True:
                while b"\r\n\r\n" not in data:
                    if not (piece := connection.recv(65536)):
                        return
                    data += piece
                head, _, data = data.partition(b"\r\n\r\n")
                call = Call(head, b"", 0)
                length = int(call.headers.get("content-length", "0"))
                while len(data) < length:
                    if not (piece := connection.recv(65536)):
                        return
                    data += piece
                call.body, data = data[:length], data[length:]
                with self._lock:
                    self.calls.append(call)
                    call.number = len(self.calls)
                try:
                    self.do(connection, call)
                except Gone:
                    self.closed.set()
                    raise
        connection.close()
