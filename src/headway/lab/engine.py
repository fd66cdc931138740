"""Drives a load: starts each request at its moment whatever became of the others, and watches itself while doing so.

Open loop means that nothing here ever waits for an answer before it starts the next request. What would have to wait
(no connection left, or the generator itself too late) is counted as failed, with a reason that says so.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from headway.lab.alarm import Alarm
from headway.lab.arrivals import arrivals, scheduled_arrivals
from headway.lab.connection import RESET, Connection, Exchange
from headway.lab.generator import CONNECTION_LIMIT, OUT_OF_DESCRIPTORS, OUT_OF_PORTS, TOO_SLOW, Effort
from headway.lab.mix import turns
from headway.lab.outcome import DEADLINE, Failure, LoadResult, Progress
from headway.lab.own_core import CoreTime
from headway.lab.plan import LoadPlan
from headway.lab.preflight import Reached
from headway.lab.spread import percentiles_s
from headway.lab.tally import Tally
from headway.lab.target import wire_request

# Requests started in one go before answers are read again: small, so that reading is not late either.
_BATCH = 32
# How often deadlines are looked at; an answer is judged by its own time, so this only delays the giving up.
_TICK_S = 0.02
_PROGRESS_S = 0.5
# For connections to be gone after the last request has ended.
_CLOSE_TIMEOUT_S = 2.0


class Engine:
    """One run of a plan. Everything happens in the event loop that calls `run`."""

    def __init__(
        self,
        plan: LoadPlan,
        reached: Reached,
        connections_max: int,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._plan = plan
        self._reached = reached
        self._connections_max = connections_max
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._keep = plan.connections == "keep"
        self._requests = [wire_request(request, reached.target, keep=self._keep) for request in plan.requests]
        self._id_prefix = os.urandom(6).hex() if plan.identify else ""
        self._turns = turns([request.weight for request in plan.requests])
        kinds = [f"{request.method} {request.path}" for request in self._requests]
        self._tally = Tally(plan.slo_s, plan.failures_max, plan.pieces, kinds)
        self._arrivals = (
            scheduled_arrivals(plan.schedule, plan.seed, plan.pattern)
            if plan.schedule
            else arrivals(plan.rate_per_s, plan.duration_s, plan.seed, plan.pattern)
        )
        self._next_s: float | None = next(self._arrivals, None)
        self._in_flight = 0
        self._waiting: deque[Exchange] = deque()  # by intended start, ended ones are dropped when they reach the front
        self._idle: dict[Connection, None] = {}  # ordered: the one used last is taken first
        self._opening: set[asyncio.Task[None]] = set()
        self._open: set[Connection] = set()
        self._done = asyncio.Event()
        self._alarm = Alarm(self._pump)
        self._began_s = 0.0
        self._began_core = CoreTime.now()
        self._stopped = False
        self._mistake: BaseException | None = None
        self._sent_s: float | None = None  # when the last request was started
        self._sent_core = CoreTime(0.0, 0.0)  # used until then
        self._last_end_s = 0.0

    async def run(self) -> LoadResult:
        """Send everything, wait for the last fate, close everything."""
        self._began_s, self._began_core = time.monotonic(), CoreTime.now()
        progress_s = _PROGRESS_S
        told_before = self._loop.get_exception_handler()
        self._loop.set_exception_handler(self._went_wrong)
        try:
            self._pump()
            while not self._done.is_set():
                try:
                    async with asyncio.timeout(_TICK_S):
                        await self._done.wait()
                except TimeoutError:
                    self._give_up()
                if self._on_progress is not None and self._elapsed_s() >= progress_s:
                    progress_s = self._elapsed_s() + _PROGRESS_S
                    self._on_progress(self.progress())
        finally:
            self._next_s = None
            self._alarm.close()
            await self._close()
            self._loop.set_exception_handler(told_before)
        if self._mistake is not None:
            raise self._mistake
        return self._result()

    def _went_wrong(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised, which the event loop only tells: the request it was about would never end, nor the load.

        What the network does to a connection is none of ours.
        """
        error = context.get("exception")
        if error is None or isinstance(error, OSError):
            loop.default_exception_handler(context)
            return
        self._mistake = self._mistake or error
        self._next_s = None
        self._done.set()

    def stop(self) -> None:
        """Start no more requests; those in flight may end. Call it from the engine's own event loop."""
        self._next_s = None
        if self._sent_s is None:
            self._stopped = True
            self._note_sent()
        self._finish_if_over()

    def so_far(self) -> LoadResult | None:
        """After `run` was cancelled: what had ended until then; None when nothing had.

        What was under way at that moment is left out: neither an answer nor a failure came of it.
        """
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.ended:
                exchange.ended = True
                self._tally.forget(exchange.intended_s, exchange.kind)
        if self._sent_s is None:
            self._stopped = True
            self._note_sent()
        return self._result() if self._tally.offered else None

    def progress(self) -> Progress:
        """How it stands now."""
        counts = self._tally.counts
        p50_s, p99_s = percentiles_s(self._tally.served.copy(), 0.5, 0.99)
        return Progress(
            elapsed_s=self._elapsed_s(),
            duration_s=self._plan.duration_s,
            offered=self._tally.offered,
            ok=counts["ok"],
            late=counts["late"],
            refused=counts["refused"],
            failed=counts["failed"],
            in_flight=self._in_flight,
            p50_ms=None if p50_s is None else round(p50_s * 1000, 3),
            p99_ms=None if p99_s is None else round(p99_s * 1000, 3),
        )

    # --- starting requests

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def _pump(self) -> None:
        now_s = self._elapsed_s()
        for _ in range(_BATCH):
            if self._next_s is None or self._next_s > now_s:
                break
            self._start(self._next_s)
            self._next_s = next(self._arrivals, None)
        if self._next_s is not None and self._next_s <= now_s:
            self._loop.call_soon(self._pump)  # more is due, but answers are read first
        elif self._next_s is not None:
            self._alarm.set(self._began_s + self._next_s)
        elif self._sent_s is None:
            self._note_sent()
            self._finish_if_over()

    def _start(self, intended_s: float) -> None:
        number = self._tally.offered
        kind = self._turns[number % len(self._turns)]
        load_id = f"{self._id_prefix}-{number}" if self._id_prefix else ""
        exchange = Exchange(intended_s, self._requests[kind], load_id, kind)
        lag_s = self._elapsed_s() - intended_s
        self._tally.offer(intended_s, kind)
        self._tally.send_lag_s.append(lag_s)
        self._in_flight += 1
        self._waiting.append(exchange)
        if lag_s > self._plan.deadline_s:
            self.broken(exchange, TOO_SLOW)
        elif (kept := self._kept()) is not None:
            kept.send(exchange)
        elif self._in_flight > self._connections_max:
            self.broken(exchange, CONNECTION_LIMIT)
        else:
            exchange.opening = self._loop.create_task(self._open_for(exchange))
            self._opening.add(exchange.opening)
            exchange.opening.add_done_callback(self._opened_or_failed)

    def _kept(self) -> Connection | None:
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.usable:
                return connection
        return None

    def _opened_or_failed(self, opening: asyncio.Task[None]) -> None:
        self._opening.discard(opening)
        if not opening.cancelled() and (error := opening.exception()) is not None:
            raise error  # told at once: an event loop tells of it when the task is collected, which may be never

    async def _open_for(self, exchange: Exchange) -> None:
        try:
            await self._connect(lambda: Connection(self, exchange, keep=self._keep))
        except OSError as error:
            self.broken(exchange, _connect_reason(error))
        finally:
            exchange.opening = None

    async def _connect(self, protocol: Callable[[], Connection]) -> None:
        target, tls = self._reached.target, self._reached.tls
        if target.socket_path is not None:
            await self._loop.create_unix_connection(protocol, target.socket_path)
        elif tls is None:
            await self._loop.create_connection(protocol, self._reached.address, target.port)
        else:
            await self._loop.create_connection(
                protocol,
                self._reached.address,
                target.port,
                ssl=tls,
                server_hostname=target.host,
                ssl_handshake_timeout=self._plan.deadline_s + 1,
                ssl_shutdown_timeout=_CLOSE_TIMEOUT_S / 2,
            )

    # --- what became of them (lab.connection.Owner)

    def opened(self, connection: Connection) -> None:
        """A connection stands; from now on it must be closed at the end."""
        self._open.add(connection)

    def answered(self, exchange: Exchange, status: int, kept: Connection | None) -> None:
        """A whole answer came, perhaps after the deadline."""
        if kept is not None:
            self._idle[kept] = None
        if exchange.ended:
            return
        latency_s = self._elapsed_s() - exchange.intended_s
        if latency_s > self._plan.deadline_s:
            self.broken(exchange, DEADLINE)
        elif self._tally.answered(exchange.intended_s, latency_s, status, exchange.kind) == "failed":
            self.broken(exchange, f"status {status}")
        else:
            self._end(exchange)

    def broken(self, exchange: Exchange, reason: str) -> None:
        """No answer that counts will come."""
        if exchange.ended:
            return
        at_s = self._began_s + exchange.intended_s
        failure = Failure(at_s, exchange.request.method, exchange.request.path, reason, exchange.load_id)
        self._tally.failed(exchange.intended_s, failure, exchange.kind)
        self._end(exchange)

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def _end(self, exchange: Exchange) -> None:
        exchange.ended = True
        exchange.connection = None
        self._in_flight -= 1
        self._last_end_s = self._elapsed_s()
        self._finish_if_over()

    def _give_up(self) -> None:
        """End what is past its deadline. Exchanges wait in the order of their start, so only the front is looked at."""
        oldest_s = self._elapsed_s() - self._plan.deadline_s
        while self._waiting and (self._waiting[0].ended or self._waiting[0].intended_s < oldest_s):
            exchange = self._waiting.popleft()
            if exchange.ended:
                continue
            if exchange.connection is not None:
                exchange.connection.abort()
            elif exchange.opening is not None:
                exchange.opening.cancel()
            self.broken(exchange, DEADLINE)

    # --- the end

    def _note_sent(self) -> None:
        self._sent_s, self._sent_core = self._elapsed_s(), CoreTime.now().since(self._began_core)

    def _finish_if_over(self) -> None:
        if self._next_s is None and self._sent_s is not None and self._in_flight == 0:
            self._done.set()

    async def _close(self) -> None:
        for task in self._opening:
            task.cancel()
        until_s = time.monotonic() + _CLOSE_TIMEOUT_S
        while (self._open or self._opening) and time.monotonic() < until_s:
            for connection in tuple(self._open):
                connection.abort()
            await asyncio.sleep(0.001)

    def _result(self) -> LoadResult:
        sent_s = self._sent_s or self._elapsed_s()
        is_burst = self._plan.pattern == "burst"
        asked_s = sent_s if self._stopped else self._plan.duration_s
        deadline_s = self._plan.deadline_s if is_burst else None
        return self._tally.result(
            duration_s=self._last_end_s if is_burst else asked_s,
            effort=Effort(
                0.0 if is_burst else asked_s, sent_s, self._sent_core.ran_s, self._sent_core.waited_s, deadline_s
            ),
        )


def _connect_reason(error: OSError) -> str:
    match error:
        case ssl.SSLError():
            return "TLS handshake failed"
        case ConnectionRefusedError() | FileNotFoundError():
            return "connection refused"
        case ConnectionResetError() | ConnectionAbortedError():
            return RESET
        case BlockingIOError():
            return "listen queue full"  # of a unix socket: TCP waits instead
        case OSError(errno=errno.EADDRNOTAVAIL):
            return OUT_OF_PORTS
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return OUT_OF_DESCRIPTORS
    return f"connection failed: {error.strerror or type(error).__name__}"
