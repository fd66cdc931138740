"""The stream of changes: one connection of the process that the server tells of every key that anybody writes.

It is read by a thread of its own, so that it is read also while the app computes, and in apps that have no event
loop. What comes is applied to the tier in the process at once. When the connection breaks, or is silent for longer
than the time-out although asked once a second, the tier is distrusted before anything else happens.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import hiredis

from headway.caching import resp
from headway.caching.blob import GENERATION_BYTES
from headway.caching.client.near import Near
from headway.caching.client.outage import Outage
from headway.caching.client.told import Told
from headway.caching.refusals import Refusal, copies, refused, unanswered, unwelcome

_BEAT_S = 1.0
_PAUSE_S, _PAUSE_MAX_S = 0.02, 0.5
_COUNTS_HOLD_MS = b"15000"
_FOLDERS = (b"v:", b"l:", b"t:", b"g")


class Tracking(threading.Thread):
    """The thread of one cache. A daemon: it ends with the process."""

    def __init__(self, told: Told, near: Near, counts: Callable[[], Mapping[str, int]], outage: Outage) -> None:
        super().__init__(name=f"headway: changes of cache {told.name}", daemon=True)
        self._told = told
        self._near = near
        self._counts = counts
        self._outage = outage
        self._closed = threading.Event()
        self._sock: socket.socket | None = None
        self._lock = threading.Lock()  # of the lists of listeners, which each event loop adds itself to
        self._released: list[Callable[[bytes], None]] = []
        self._on_server: list[Callable[[str], None]] = []
        self._place = f"s:{socket.gethostname()}:{os.getpid()}".encode()
        self._expected: deque[Callable[[socket.socket, Any], None]] = deque()  # who takes which answer
        self.generation: bytes | None = None  # of the cache; None while it is not known

    def on_release(self, listener: Callable[[bytes], None]) -> None:
        """Be told of every lease that was given, given back or ran out, by the key it is for. From this thread."""
        with self._lock:
            self._released = [*self._released, listener]

    def off_release(self, listener: Callable[[bytes], None]) -> None:
        """Tell it no more."""
        with self._lock:
            self._released = [other for other in self._released if other != listener]

    def on_server(self, listener: Callable[[str], None]) -> None:
        """Be told which server tells of changes, before it is believed. From this thread."""
        with self._lock:
            self._on_server = [*self._on_server, listener]

    def off_server(self, listener: Callable[[str], None]) -> None:
        """Tell it no more."""
        with self._lock:
            self._on_server = [other for other in self._on_server if other != listener]

    def meets(self, server: str) -> None:
        """From any thread: this server answers commands now. If another one tells of changes, look for it anew."""
        if self._near.is_trusted and self._near.server != server:
            self._hang_up()

    def close(self) -> None:
        """End now: nothing in the process is believed any more."""
        self._closed.set()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Follow the server until the end of the process; look for it with growing pauses while it is away."""
        pause_s = _PAUSE_S
        while not self._closed.is_set():
            try:
                with resp.dial(self._told.place, max(self._told.timeout_s, 1.0)) as sock:
                    self._sock = sock
                    self._follow(sock)
            except Exception as error:  # whatever it is, without this thread nothing may be believed
                if not self._closed.is_set():
                    why = error.why if isinstance(error, _Refused) else unanswered(self._told.place, error)
                    self._outage.begins(why)
            if self.generation is not None or self._near.is_trusted:
                pause_s = _PAUSE_S
            self.generation = None
            self._near.distrust()
            self._closed.wait(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    def _follow(self, sock: socket.socket) -> None:
        parser = resp.reader()
        prefix = self._told.prefix
        watched = [part for folder in _FOLDERS for part in (b"PREFIX", prefix + folder)]
        track = resp.command(b"CLIENT", b"TRACKING", b"ON", b"BCAST", *watched)
        place = self._told.place
        hello, *rest = resp.greeting(place, f"headway-changes-{os.getpid()}")
        sock.settimeout(max(self._told.timeout_s, 1.0))
        answers = (reply for reply in resp.replies(sock, parser) if resp.pushed(reply) is None)
        # The greeting by itself: a server that does not let us in may close over the length of what follows.
        sock.sendall(hello)
        if resp.is_error(said := next(answers)):
            raise _Refused(unwelcome(place, str(said)))
        if resp.is_copy(said):
            raise _Refused(copies(place))
        sock.sendall(b"".join((*rest, track, resp.WHO_COMMAND)))
        for said in [next(answers) for _ in (*rest, track)]:
            if resp.is_error(said):
                raise _Refused(refused(place, "CLIENT or SELECT", str(said)))
        self._near.server = resp.who(next(answers))
        for listener in self._on_server:
            listener(self._near.server)
        self._near.trust()
        self._outage.ends()
        self._listen(sock, parser)

    def _listen(self, sock: socket.socket, parser: hiredis.Reader) -> None:
        self._expected.clear()
        beat = silent_at = 0.0
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while not self._closed.is_set():
            at = time.monotonic()
            if at >= beat and not self._expected:
                self._beat(sock)
                silent_at = at + max(self._told.timeout_s * 2, 0.2)
                beat = at + _BEAT_S
            until = silent_at if self._expected else beat
            if _has_more(sock) or poll.poll(max(1, int((until - at) * 1000))):
                data = sock.recv(262144)
                if not data:
                    raise ConnectionResetError("it closed the connection")
                parser.feed(data)
                self._read(sock, parser)
            elif self._expected and time.monotonic() >= silent_at:
                raise TimeoutError  # only once nothing is there to be read: this thread itself may have stood still

    def _beat(self, sock: socket.socket) -> None:
        """Ask for the cache's generation, which also keeps it from being evicted, and leave the counts."""
        self._ask_generation(sock)
        counts = self._counts()
        if counts:
            place = self._told.prefix + self._place
            fields = [part for name, count in counts.items() for part in (name.encode(), b"%d" % count)]
            sock.sendall(resp.command(b"HSET", place, *fields) + resp.command(b"PEXPIRE", place, _COUNTS_HOLD_MS))
            self._expected += [_ignore, _ignore]

    def _ask_generation(self, sock: socket.socket) -> None:
        sock.sendall(resp.command(b"GET", self._told.prefix + b"g"))
        self._expected.append(self._learn)

    def _learn(self, sock: socket.socket, reply: Any) -> None:
        if isinstance(reply, bytes) and len(reply) == GENERATION_BYTES:
            if self.generation is not None and self.generation != reply:
                self._near.clear()
            self.generation = reply
        elif reply is None:
            # Whoever is first makes one; the server tells all of it, this process too, which then asks again.
            self.generation = None
            sock.sendall(resp.command(b"SET", self._told.prefix + b"g", secrets.token_bytes(GENERATION_BYTES), b"NX"))
            self._expected.append(_ignore)
            self._ask_generation(sock)
        else:
            raise _Refused(refused(self._told.place, "GET", str(reply)))

    def _read(self, sock: socket.socket, parser: hiredis.Reader) -> None:
        """Take what has come: first all changes, then answers."""
        changed: list[bytes] = []
        leases: list[bytes] = []
        answers: list[Any] = []
        everything = asks = False
        start = len(self._told.prefix)
        while (reply := parser.gets()) is not resp.NOT_YET:
            push = resp.pushed(reply)
            if push is None:
                answers.append(reply)
            elif push[0] == b"invalidate" and push[1] is None:
                everything = True
            elif push[0] == b"invalidate":
                for key in push[1]:
                    name = key[start:]
                    if name.startswith(b"v:"):
                        changed.append(name[2:])
                    elif name.startswith(b"l:"):
                        leases.append(name[2:])
                    elif name.startswith(b"t:"):
                        changed.append(name)
                    else:
                        asks = True
        if everything or asks:
            self.generation = None
            self._near.clear()
            self._ask_generation(sock)
        elif changed:
            self._near.drop(changed)
        for key in (*leases, *changed):
            for listener in self._released:
                listener(key)
        for answer in answers:
            self._expected.popleft()(sock, answer)


class _Refused(Exception):
    """The server does not do what is asked."""

    def __init__(self, why: Refusal) -> None:
        super().__init__(why.text)
        self.why = why


def _ignore(sock: socket.socket, reply: Any) -> None:
    """An answer that changes nothing."""


def _has_more(sock: socket.socket) -> bool:
    """Whether TLS has taken in bytes that no poll shows."""
    pending = getattr(sock, "pending", None)
    return bool(pending and pending())
