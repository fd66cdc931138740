"""What a process knows of one service that it calls: whether to ask it, how many calls at once, what came of them.

Shared by all event loops and threads of the process, under one lock that is held for a few assignments.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from time import monotonic
from typing import Any

from headway.calls.breaker import Breaker
from headway.calls.budget import RetryBudget
from headway.calls.bulkhead import WAIT_S, Bulkhead, bound_max
from headway.calls.client.tally import Tally
from headway.calls.client.told import Told
from headway.calls.patience import is_telling, smoothed
from headway.calls.retry import Ended
from headway.context.asked import no_retry, threads
from headway.errors import CircuitOpen, Refused

_ANSWERED = frozenset({Ended.ANSWERED, Ended.SICK, Ended.NO_POINT})
_LATE = frozenset({Ended.SPENT, Ended.TIMED_OUT})
NO_ROOM = "Fewer calls at once, a quicker service, or more replicas of it: headway status; headway scale"


class Waiter:
    """A call that waits for its place."""

    __slots__ = ("future", "has_place", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.has_place = False

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Target:
    """One service, as this process sees it."""

    def __init__(self, told: Told, tally: Tally | None) -> None:
        now_s = monotonic()
        self.told = told
        self.name = told.name
        self.usual_s = 0.0
        self.budget = RetryBudget(now_s)
        self.breaker = Breaker(now_s)
        self.bulkhead = Bulkhead(bound_max(told.calls_max, threads()))
        self.attempts = self.calls = self.retries = 0
        self.refused = self.failed = self.spent = self.turned_away = 0
        self._waiters: deque[Waiter] = deque()
        self._lock = threading.Lock()
        self._tally = tally
        if tally is not None:
            tally.add(told.name, self.counts)

    # -- a place for a call -----------------------------------------------------------------------------------------

    def enter(self, now_s: float) -> Waiter | None:
        """Begin a call; it ends by `leave`. Who must `wait` first is given what for. CircuitOpen, Refused."""
        with self._lock:
            self.calls += 1
            self.budget.called(now_s)
            self._changed()
            if not self.breaker.admits(now_s):
                self.turned_away += 1
                raise self._open(now_s)
            if not self._waiters and self.bulkhead.enter(now_s):
                return None
            if len(self._waiters) >= self.bulkhead.waiters_max(now_s):
                raise self._full(now_s)
            waiter = Waiter(asyncio.get_running_loop())
            self._waiters.append(waiter)
            return waiter

    async def wait(self, waiter: Waiter, left_s: float) -> None:
        """Wait for a place. Refused."""
        try:
            async with asyncio.timeout(min(WAIT_S, left_s)):
                await waiter.future
        except BaseException as error:
            with self._lock:
                if not waiter.has_place:
                    self._waiters.remove(waiter)
                    if isinstance(error, TimeoutError):
                        raise self._full(monotonic()) from None
                    self.breaker.let_go()
                    raise
            if not isinstance(error, TimeoutError):  # given up in the very moment that it had a place
                self.leave_unsent(monotonic())
                raise

    def leave(self, now_s: float) -> None:
        """A call has ended, however it did."""
        with self._lock:
            self._changed()
            if self.bulkhead.leave(now_s) and self._waiters:
                self._pass_on(now_s)

    def leave_unsent(self, now_s: float) -> None:
        """A call has ended with its place, and before anything was sent: as a probe, it leaves that to the next one."""
        with self._lock:
            self.breaker.let_go()
        self.leave(now_s)

    def _pass_on(self, now_s: float) -> None:
        while self._waiters and self.bulkhead.enter(now_s):
            waiter = self._waiters.popleft()
            waiter.has_place = True
            try:
                waiter.loop.call_soon_threadsafe(waiter.wake)
            except RuntimeError:  # its loop has ended
                self.breaker.let_go()
                self.bulkhead.leave(now_s)

    def _full(self, now_s: float) -> Refused:
        self.breaker.let_go()
        self.refused += 1
        no_retry()
        bound, hint = self.bulkhead.bound, NO_ROOM
        if bound == self.told.calls_max and self.told.caller:
            hint += f"; a larger calls_max in [services.{self.told.caller}]"
        calls = f"{bound} calls are" if bound != 1 else "one call is"
        return Refused(
            self.name,
            f"{calls} under way from this process, as many as may be, and no place came free; nothing was sent",
            hint=hint,
            retry_after_s=1,
        )

    def _open(self, now_s: float) -> CircuitOpen:
        no_retry()
        again_s = max(1, round(self.breaker.until_s - now_s + 0.5))
        return CircuitOpen(
            self.name,
            f"it failed too often just now and is not asked for {again_s} s; nothing was sent",
            hint=f"headway status; headway logs {self.name}",
            retry_after_s=again_s,
        )

    # -- what came of an attempt ------------------------------------------------------------------------------------

    def answered(self, began_s: float, now_s: float) -> None:
        """The first attempt has an app's answer, and the call ends with it: `note` and `leave` in one."""
        with self._lock:
            self._changed()
            self.attempts += 1
            self.usual_s = smoothed(self.usual_s, now_s - began_s)
            self.breaker.answered(began_s, now_s)
            bulkhead = self.bulkhead
            bulkhead.answered()
            if bulkhead.leave(now_s) and self._waiters:
                self._pass_on(now_s)

    def note(self, ended: Ended, began_s: float, allowed_s: float, now_s: float) -> None:
        """An attempt that had `allowed_s` seconds ended so; the call goes on, or ends by `leave`."""
        with self._lock:
            self.attempts += 1
            if ended in _ANSWERED:
                self.usual_s = smoothed(self.usual_s, now_s - began_s)
                self.breaker.answered(began_s, now_s)
                self.bulkhead.answered()
            elif ended is Ended.REFUSED or (ended in _LATE and not is_telling(allowed_s, self.usual_s)):
                self.breaker.let_go()
            else:
                self.breaker.failed(began_s, now_s, random.random())
                if ended in _LATE:  # what broke off was in the hands of a replica that died: that says nothing of room
                    self.bulkhead.missed(now_s)

    def came_too_late(self) -> None:
        """No time was left for an attempt, and it was not made; the call ends by `leave`."""
        with self._lock:
            self.spent += 1
            self.breaker.let_go()

    def let_go(self) -> None:
        """An attempt ended without a word on the service: its caller gave up."""
        with self._lock:
            self.attempts += 1
            self.breaker.let_go()

    def may_retry(self, ended: Ended, attempt: int, now_s: float) -> bool:
        """Whether the budget and the breaker let one more attempt pass after this one; it counts then."""
        is_broken = attempt == 1 and ended is Ended.BROKEN
        with self._lock:
            if self.breaker.until_s or not self.budget.take(now_s, is_broken=is_broken):
                return False
            self.retries += 1
            return True

    def count(self, ended: Ended) -> None:
        """A call is over without an answer of an app."""
        with self._lock:
            if ended is Ended.REFUSED:
                self.refused += 1
            elif ended is Ended.SPENT:
                self.spent += 1
            else:
                self.failed += 1

    def _changed(self) -> None:
        tally = self._tally
        if tally is not None and not tally.is_told:
            tally.tell()

    def turn_away(self) -> None:
        """A call was over before it began: no time was left for it."""
        with self._lock:
            self._changed()
            self.calls += 1
            self.spent += 1

    def counts(self) -> dict[str, Any]:
        """What is told of it."""
        with self._lock:
            now_s = monotonic()
            return {
                "calls": self.calls,
                "attempts": self.attempts,
                "retries": self.retries,
                "refused": self.refused,
                "failed": self.failed,
                "deadline": self.spent,
                "turned_away": self.turned_away,
                "breaker": self.breaker.state(now_s),
                "breaker_until_s": self.breaker.until_s,
                "in_flight": self.bulkhead.in_flight,
                "bound": self.bulkhead.bound,
                "bound_max": self.bulkhead.most,
            }
