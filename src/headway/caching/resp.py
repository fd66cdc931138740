"""The server's protocol, RESP3: commands out, replies in (by hiredis), and the greeting of a new connection."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Any

import hiredis

from headway.caching.place import Place

NOT_YET: Any = object()  # what a reader gives while a reply is not whole
_CHUNK_BYTES = 65_536
GET = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n"  # the command that counts; for the key's length, and the key


def command(*parts: str | bytes | int) -> bytes:
    """One command as it goes out."""
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        out.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(out)


def reader() -> hiredis.Reader:
    """Takes replies apart; errors are given, not raised."""
    return hiredis.Reader(notEnoughData=NOT_YET)


def is_error(reply: object) -> bool:
    """Whether the server refused the command."""
    return isinstance(reply, hiredis.ReplyError)


def pushed(reply: object) -> list[Any] | None:
    """What the server said unasked, or None for an answer."""
    return list(reply) if isinstance(reply, hiredis.PushNotification) else None


def greeting(place: Place, name: str) -> tuple[bytes, ...]:
    """What a new connection says first, under a name for the server's lists. All must be answered without an error."""
    hello: list[str | int] = ["HELLO", 3]
    if place.password:
        hello += ["AUTH", place.user or "default", place.password]
    commands = [command(*hello), command("CLIENT", "SETNAME", name)]
    if place.database:
        commands.append(command("SELECT", place.database))
    return tuple(commands)


WHO_COMMAND = command("INFO", "server")


def who(reply: object) -> str:
    """Which server answered `WHO_COMMAND`: another one each time that one starts. Empty where that is not told."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply if isinstance(reply, str) else ""
    return next((line[7:].strip() for line in text.splitlines() if line.startswith("run_id:")), "")


def is_copy(hello: object) -> bool:
    """Whether the server says in its answer to the greeting that it copies another one."""
    return isinstance(hello, dict) and hello.get(b"role") in (b"replica", b"slave")


def tls_context(place: Place) -> ssl.SSLContext | None:
    """The system's certificates decide whom to believe."""
    return ssl.create_default_context() if place.tls else None


def dial(place: Place, timeout_s: float) -> socket.socket:
    """A blocking connection to the server, not greeted yet. OSError when it cannot be had."""
    if place.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect(place.path)
        except BaseException:
            sock.close()
            raise
        return sock
    host, port = leader(place, timeout_s)
    plain = socket.create_connection((host, port), timeout_s)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = tls_context(place)
        return context.wrap_socket(plain, server_hostname=host) if context else plain
    except BaseException:
        plain.close()
        raise


def leader(place: Place, timeout_s: float) -> tuple[str, int]:
    """Where the server is: as told, or what the first Sentinel that knows says. OSError when none does."""
    if not place.sentinels:
        return place.host, place.port
    for host, port in place.sentinels:
        try:
            with socket.create_connection((host, port), timeout_s) as sock:
                sock.sendall(command("SENTINEL", "get-master-addr-by-name", place.master))
                answer = next(replies(sock, reader()))
        except (OSError, hiredis.HiredisError):
            continue
        if isinstance(answer, list) and len(answer) == 2:
            return answer[0].decode(), int(answer[1])
    raise ConnectionError(f"no Sentinel knows where {place.master} is")


def replies(sock: socket.socket, parser: hiredis.Reader) -> Iterator[Any]:
    """Replies as they come. OSError when the connection ends or is silent for longer than its time-out."""
    while True:
        reply = parser.gets()
        if reply is not NOT_YET:
            yield reply
            continue
        data = sock.recv(_CHUNK_BYTES)
        if not data:
            raise ConnectionResetError("it closed the connection")
        parser.feed(data)
