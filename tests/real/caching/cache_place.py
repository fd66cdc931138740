"""Real servers for caches, and listeners that answer like servers which cannot be one; all gone after the test."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import die_with_parent, free_port, wait_for

from headway.caching.asking import Asking, Unanswered
from headway.caching.engine import find_valkey
from headway.caching.place import Place

READY_S = 60.0


@contextmanager
def valkey(folder: Path, *lines: str, port: int = 0, is_sentinel: bool = False) -> Iterator[int]:
    """A server on a loopback port, with further lines of configuration; its port."""
    port = port or free_port()
    config = folder / f"valkey-{port}.conf"
    own = () if is_sentinel else ('save ""',)
    config.write_text("\n".join([f"bind 127.0.0.1\nport {port}\ndir {folder}", *own, *lines, ""]))
    with open(folder / f"valkey-{port}.log", "wb") as log:
        argv = [str(find_valkey().path), str(config), *(["--sentinel"] if is_sentinel else [])]
        process = subprocess.Popen(argv, stdout=log, stderr=log, preexec_fn=die_with_parent)
    try:
        wait_for(lambda: listens(port), READY_S, f"a server on {port}")
        yield port
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def answers(place: Place) -> bool:
    try:
        with Asking(place):
            return True
    except Unanswered:
        return False


@contextmanager
def listener(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose connections `talk` answers, each in a thread of its own."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def accept() -> None:
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=_served, args=(talk, sock), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def _served(talk: Callable[[socket.socket], None], sock: socket.socket) -> None:
    with sock:
        try:
            talk(sock)
        except OSError:
            return


def scripted(replies: dict[bytes, bytes]) -> Callable[[socket.socket], None]:
    """Answers each command by its first word; `+OK` to what is not named."""

    def talk(sock: socket.socket) -> None:
        file = sock.makefile("rb")
        while head := file.readline():
            parts = []
            for _ in range(int(head[1:])):
                size = int(file.readline()[1:])
                parts.append(file.read(size + 2)[:-2])
            sock.sendall(replies.get(parts[0].upper(), b"+OK\r\n"))

    return talk


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)
