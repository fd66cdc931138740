"""One connection for the commands of all tasks of an event loop.

Commands that tasks give in one turn of the loop leave as one write, and their replies come back in order: no pool, no
waiting for a free connection, and a stampede is as good as a pipeline. A server that is silent for longer than the
time-out is away, as one that has gone: everybody is told at once, nobody waits for it, and one task looks for it with
growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

import hiredis

from headway.caching import resp
from headway.caching.client.debt import Debt, command
from headway.caching.client.outage import Outage
from headway.caching.client.told import Told
from headway.caching.refusals import refused
from headway.caching.scripts import Script

UNDERWAY_MAX = 20_000  # commands whose replies are awaited
_PAUSE_S, _PAUSE_MAX_S = 0.02, 1.0
_LOOKS = 4  # in a time-out; it is found out after one to one and a quarter of it
_LARGE_BYTES = 65_536
_LINE_MIN_PER_S = 10e6  # bytes: a large command may take as long as this before it counts as unanswered


class Away(Exception):
    """The server does not answer now. Inside Headway alone: the app never sees it."""


class Link:
    """The connection of one event loop. Made at its first use; all methods are called in that loop."""

    def __init__(self, told: Told, debt: Debt, outage: Outage, meets: Callable[[str], None]) -> None:
        self._told = told
        self._debt = debt  # goes out before anything else on a new connection
        self._outage = outage
        self._meets = meets  # told which server answers
        self.server = ""
        self._loop = asyncio.get_running_loop()
        self.wire: _Wire | None = None  # None while the server is away
        self._looking: asyncio.Task[None] | None = None
        self._first = True
        self._closed = False

    @property
    def is_up(self) -> bool:
        """Whether commands can be given now."""
        return self.wire is not None

    def get(self, key: bytes) -> asyncio.Future[Any]:
        """`GET key`. Raises Away at once when the server is."""
        return (self.wire or self._ready()).send(resp.GET % (len(key), key))

    def call(self, *parts: bytes) -> asyncio.Future[Any]:
        """Any command; its reply, or `hiredis.ReplyError` as a value. Raises Away at once when the server is."""
        return self._ready().send(resp.command(*parts))

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """A command as it goes out, as `call`."""
        return self._ready().send(command)

    async def run(self, script: Script, keys: list[bytes], *arguments: bytes) -> Any:
        """Run a script; the server is taught it when it does not know it. Raises Away also when it refuses."""
        rest = (b"%d" % len(keys), *keys, *arguments)
        reply = await self.call(b"EVALSHA", script.sha, *rest)
        if resp.is_error(reply) and str(reply).startswith("NOSCRIPT"):
            reply = await self.call(b"EVAL", script.text, *rest)
        if resp.is_error(reply):
            self.refused(reply)
        return reply

    def refused(self, reply: object) -> NoReturn:
        """A server that answers with an error is away: it leads no longer, loads its data, or has no room."""
        if str(reply).startswith(("READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "CLUSTERDOWN")):
            self._lost(self.wire)
        elif resp.is_error(reply):
            self._outage.begins(refused(self._told.place, "what is asked of it", str(reply)))
        raise Away(str(reply))

    async def wait_up(self) -> None:
        """Wait for the first connection, for the time-out at most; Away when there is none."""
        if self.wire is not None:
            return
        task = self._look()
        if not self._first:
            raise Away("the server is away")
        # Not the task itself: that this connection is closed meanwhile ends it, and not who waits.
        await asyncio.wait((task,), timeout=self._told.timeout_s)
        self._first = False
        if self.wire is None:
            raise Away("the server is away")

    def leave_others(self, server: str) -> None:
        """From another thread: changes are told by this server now. Values must come from there as well."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._leave, server)

    def renew(self) -> None:
        """Begin anew: the server is to hear what is owed before it is believed again."""
        self._lost(self.wire)

    def renew_soon(self) -> None:
        """The same, from another thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.renew)

    def _leave(self, server: str) -> None:
        if self.server != server:
            self.renew()

    def close(self) -> None:
        """End the connection; whoever waits for a reply is told that the server is away."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
        if self.wire is not None:
            self.wire.abort()

    def _ready(self) -> _Wire:
        wire = self.wire
        if wire is None:
            self._look()
            raise Away("the server is away")
        return wire

    def _look(self) -> asyncio.Task[None]:
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._connect(), name="headway: cache connection")
        return self._looking

    async def _connect(self) -> None:
        pause_s = _PAUSE_S
        while not self._closed:
            try:
                wire = await self._dial()
                try:
                    await self._greet(wire)
                except BaseException:
                    wire.abort()
                    raise
                self.wire = wire
                return
            except (OSError, Away, TimeoutError):
                self._first = False
                await asyncio.sleep(pause_s * (0.5 + random.random()))
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    async def _dial(self) -> _Wire:
        place = self._told.place
        host, port = place.host, place.port
        if place.sentinels:  # each of them has a second
            host, port = await asyncio.to_thread(resp.leader, place, 1.0)
        # Not `wait_for`, which may lose a cancellation before Python 3.12: a loop that ends would wait for ever.
        async with asyncio.timeout(max(1.0, self._told.timeout_s)):
            return await self._dial_at(host, port)

    async def _dial_at(self, host: str, port: int) -> _Wire:
        place = self._told.place

        def new() -> _Wire:
            return _Wire(self._lost, self._told.timeout_s)

        if place.path:
            made: Any = await self._loop.create_unix_connection(new, place.path)
        else:
            # Reading the machine's certificates takes long enough for other tasks to notice.
            secret = await asyncio.to_thread(resp.tls_context, place) if place.tls else None
            made = await self._loop.create_connection(new, host, port, ssl=secret)
        wire: _Wire = made[1]
        return wire

    async def _greet(self, wire: _Wire) -> None:
        greeting = resp.greeting(self._told.place, f"headway-commands-{os.getpid()}")
        hello, *answers = [wire.send(each) for each in greeting]
        who = wire.send(resp.WHO_COMMAND)
        for answer in (hello, *answers):
            reply = await answer
            if resp.is_error(reply) or resp.is_copy(reply):
                raise Away(str(reply))
        self.server = resp.who(await who)
        self._meets(self.server)
        # Until nothing is owed: what was made void while the server was told of the rest found no connection either.
        while owed := self._debt.owed():
            for paid in [wire.send(command(void)) for void, _number in owed]:
                if resp.is_error(reply := await paid):
                    raise Away(str(reply))
            self._debt.paid(owed)

    def _lost(self, wire: _Wire | None) -> None:
        if wire is not None and self.wire is wire:
            self.wire = None
            wire.abort()
            if not self._closed:
                self._debt.doubt()
            if not self._closed and not self._loop.is_closed():
                self._look()


class _Wire(asyncio.Protocol):
    """The two directions of a connection, and who waits for which reply."""

    def __init__(self, lost: Callable[[_Wire], None], timeout_s: float) -> None:
        self._lost = lost
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._parser = resp.reader()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._heard = False  # since the last look
        self._large: dict[asyncio.Future[Any], int] = {}  # sizes of large commands, by who waits for the reply

    def send(self, data: bytes) -> asyncio.Future[Any]:
        if self._transport is None or len(self._waiting) >= UNDERWAY_MAX:
            raise Away("the server does not keep up")
        if not self._out:
            self._loop.call_soon(self._flush)
            if self._timer is None:
                self._timer = self._loop.call_later(self._timeout_s / _LOOKS, self._look, -1)
        self._out.append(data)
        answer = self._loop.create_future()
        self._waiting.append(answer)
        if len(data) > _LARGE_BYTES:
            self._large[answer] = len(data)
        return answer

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])

    def _look(self, silent: int) -> None:
        """A server of which nothing is heard for a whole time-out, though it owes replies, is as good as gone."""
        self._timer = None
        every_s = self._timeout_s / _LOOKS
        if not self._waiting or self._heard:
            silent, self._heard = -1, False
            if not self._waiting:
                return
        silent += 1
        if silent >= _LOOKS + sum(self._large.values()) / _LINE_MIN_PER_S / every_s:
            self.abort()
            return
        self._timer = self._loop.call_later(every_s, self._look, silent)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        parser, waiting = self._parser, self._waiting
        self._heard = True
        parser.feed(data)
        try:
            while (reply := parser.gets()) is not resp.NOT_YET:
                if isinstance(reply, hiredis.PushNotification):
                    continue
                answer = waiting.popleft()
                if self._large:
                    self._large.pop(answer, None)
                if not answer.done():  # a task that was cancelled meanwhile wants it no more
                    answer.set_result(reply)
        except (hiredis.HiredisError, IndexError):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def _end(self) -> None:
        if self._transport is None and not self._waiting:
            return
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(Away("the server went away"))
                answer.exception()  # who waits gets it; one that nobody awaits any more is no news
        self._lost(self)
