"""One call, from its first attempt to its last: within its deadline, in its place, and with what travels with it."""

from __future__ import annotations

import asyncio
import random
from time import monotonic
from typing import NamedTuple

from headway.calls import patience
from headway.calls.client.answer import Answer
from headway.calls.client.asked import Outgoing
from headway.calls.client.stream import StreamAnswer
from headway.calls.client.target import NO_ROOM, Target
from headway.calls.client.websocket import WebSocket
from headway.calls.client.wire import FAULTS, Response, Socket, TooLarge, Wires, ended_by, reason_of, refusal_of, whole
from headway.calls.meaning import meaning, retry_after_s
from headway.calls.patience import as_ms
from headway.calls.retry import ATTEMPTS_MAX, Ended, may_repeat, pause_s
from headway.context.asked import carried, no_retry, patience_s
from headway.context.trace import Span, span
from headway.errors import BadAnswer, CallError, DeadlineExceeded, Refused, Unavailable
from headway.model.calls import ANSWERED, ATTEMPT, CALLER, DEADLINE

_FOREVER_S = 1e9
_OF_THE_APP = frozenset({Ended.ANSWERED, Ended.SICK, Ended.NO_POINT})


class Came(NamedTuple):
    """What came of an attempt."""

    ended: Ended
    began_s: float
    time_s: float  # that it had
    response: Response | None = None
    content: bytes = b""
    fault: Exception | None = None


class Caller:
    """Calls one service for this process."""

    def __init__(self, target: Target, wires: Wires) -> None:
        self.target = target
        self.wires = wires
        self._always = {"user-agent": "headway"}
        if target.told.caller:
            self._always[CALLER] = target.told.caller

    async def call(self, out: Outgoing, timeout_s: float | None, deadline_s: float | None, body_max: int) -> Answer:
        """The answer of the service's app."""
        target = self.target
        began_s = monotonic()
        allowed_s = self._allowed_s(deadline_s)
        with span(target.name, "call", method=out.method, path=out.path) as traced:
            self._address(out, traced)
            if (waiter := target.enter(began_s)) is not None:
                await target.wait(waiter, allowed_s)
            has_left = False
            try:
                came = await self._attempt(out, 1, began_s + allowed_s, timeout_s, body_max, False)
                if came.ended is Ended.ANSWERED:
                    assert came.response is not None
                    has_left = True
                    target.answered(came.began_s, monotonic())
                    return Answer(target.name, came.response.status, came.response.headers, came.content)
                came, has_no_retry = await self._go_on(
                    came, out, began_s + allowed_s, timeout_s, body_max, False, traced
                )
                assert came.response is not None
                return Answer(target.name, came.response.status, came.response.headers, came.content, has_no_retry)
            finally:
                if not has_left:
                    target.leave(monotonic())

    async def stream(
        self, out: Outgoing, timeout_s: float | None, deadline_s: float | None, body_max: int
    ) -> StreamAnswer:
        """The answer with its body still to come; it holds its place until it is closed."""
        target = self.target
        began_s = monotonic()
        allowed = self._allowed_s(deadline_s)
        due_s = began_s + allowed
        with span(target.name, "call", method=out.method, path=out.path) as traced:
            self._address(out, traced)
            if (waiter := target.enter(began_s)) is not None:
                await target.wait(waiter, allowed)
            try:
                came = await self._attempt(out, 1, due_s, timeout_s, body_max, True)
                came, has_no_retry = await self._go_on(came, out, due_s, timeout_s, body_max, True, traced)
            except BaseException:
                target.leave(monotonic())
                raise
        assert came.response is not None
        is_whole = came.ended is not Ended.ANSWERED
        return StreamAnswer(target, came.response, came.content if is_whole else None, allowed, has_no_retry)

    async def socket(
        self, out: Outgoing, protocols: tuple[str, ...], deadline_s: float | None, message_max: int
    ) -> WebSocket:
        """A WebSocket, which holds its place until it is closed. Opening it is tried once."""
        target = self.target
        began_s = monotonic()
        allowed = self._allowed_s(deadline_s)
        fault: Exception | None = None
        with span(target.name, "call", method="WEBSOCKET", path=out.path) as traced:
            self._address(out, traced)
            out.headers[DEADLINE], out.headers[ATTEMPT] = as_ms(allowed), "1"
            if (waiter := target.enter(began_s)) is not None:
                await target.wait(waiter, allowed)
            try:
                wire = self.wires.known() or await self.wires.open()
                async with asyncio.timeout(allowed):
                    opened: Socket = await wire.socket(out.where, out.headers, protocols, message_max)
                target.note(Ended.ANSWERED, began_s, allowed, monotonic())
                return WebSocket(target, opened, allowed)
            except TimeoutError:
                ended = Ended.SPENT
            except FAULTS as error:
                ended, fault = ended_by(error), error
            except BaseException:
                target.let_go()
                target.leave(monotonic())
                raise
            refused = refusal_of(fault) if fault is not None else None
            if refused is not None:
                ended = meaning(refused[0], refused[1].get(ANSWERED))
            now_s = monotonic()
            target.note(ended, began_s, allowed, now_s)
            target.leave(now_s)
            if refused is not None and ended in _OF_THE_APP:
                Answer(target.name, *refused, b"", ended is Ended.NO_POINT).raise_for_status()
            target.count(ended)
            raise self._failed(Came(ended, began_s, allowed, fault=fault))

    def _address(self, out: Outgoing, traced: Span) -> None:
        """Put what travels with every call beside the caller's own headers."""
        out.headers = {**self._always, **carried(), **out.headers}
        if traced.traceparent:
            out.headers["traceparent"] = traced.traceparent

    def _allowed_s(self, deadline_s: float | None) -> float:
        """Seconds that the call may take."""
        left_s = patience.allowed_s(self.target.told.deadline_s, deadline_s, patience_s(_FOREVER_S))
        if left_s <= 0:
            self.target.turn_away()
            raise self._spent()
        return left_s

    async def _attempt(
        self, out: Outgoing, number: int, due_s: float, timeout_s: float | None, body_max: int, streams: bool
    ) -> Came:
        """One attempt, whatever comes of it. DeadlineExceeded when there is no time left for it."""
        wire = self.wires.known() or await self.wires.open()
        began_s = monotonic()
        left_s = due_s - began_s
        if left_s <= 0:
            self.target.came_too_late()
            raise self._spent()
        time_s = left_s if timeout_s is None or timeout_s > left_s else timeout_s
        out.headers[DEADLINE] = as_ms(time_s)
        out.headers[ATTEMPT] = str(number)
        response: Response | None = None
        try:
            with wire.dues.within(time_s, began_s):
                response = await wire.send(out.method, out.where, out.headers, out.body)
                ended = Ended.ANSWERED
                if response.status >= 500:
                    ended = meaning(response.status, response.headers.get(ANSWERED))
                if streams and ended is Ended.ANSWERED:
                    return Came(ended, began_s, time_s, response)
                return Came(ended, began_s, time_s, response, await whole(response, body_max))
        except TimeoutError:
            return Came(Ended.TIMED_OUT if time_s < left_s else Ended.SPENT, began_s, time_s)
        except FAULTS as fault:
            return Came(ended_by(fault), began_s, time_s, response, b"", fault)
        except BaseException:
            self.target.let_go()
            raise

    async def _go_on(
        self,
        came: Came,
        out: Outgoing,
        due_s: float,
        timeout_s: float | None,
        body_max: int,
        streams: bool,
        traced: Span,
    ) -> tuple[Came, bool]:
        """An app's answer after a first attempt, and whether it is final for want of retries."""
        target, attempt = self.target, 1
        while True:
            now_s = monotonic()
            ended = came.ended
            target.note(ended, came.began_s, came.time_s, now_s)
            if ended is Ended.ANSWERED:
                return came, False
            has_no_retry = ended is Ended.NO_POINT or attempt >= ATTEMPTS_MAX
            final = "it was tried as often as may be" if attempt >= ATTEMPTS_MAX else ""
            if ended is Ended.NO_POINT:
                final = "what it needs was tried as often as may be"
            if may_repeat(ended, attempt, out.is_repeatable, out.is_replayable, due_s - now_s):
                if target.may_retry(ended, attempt, now_s):
                    await asyncio.sleep(pause_s(attempt, due_s - now_s, random.random()))
                    attempt += 1
                    traced.set(attempts=attempt)
                    came = await self._attempt(out, attempt, due_s, timeout_s, body_max, streams)
                    continue
                has_no_retry = True
                used_up = "its circuit is open" if target.breaker.until_s else "the budget of retries is used up"
                final = f"it was not tried again, for {used_up}"
            if has_no_retry or ended not in _OF_THE_APP:
                no_retry()
            if ended in _OF_THE_APP:
                if has_no_retry and came.response is not None:
                    traced.fail(f"{target.name} answered {came.response.status}; {final}")
                return came, has_no_retry
            target.count(ended)
            raise self._failed(came, final)

    def _spent(self) -> DeadlineExceeded:
        no_retry()
        return DeadlineExceeded(
            self.target.name,
            "no time is left for the call; nothing was sent",
            hint="What went before it took all of the request's deadline: headway explain",
            retry_after_s=1,
        )

    def _failed(self, came: Came, final: str = "") -> CallError:
        """What the caller is told of a call without an app's answer. `final`: why it was not tried again."""
        name, response, ended = self.target.name, came.response, came.ended
        look = f"headway status; headway logs {name}"
        again_s = retry_after_s(response.headers.get("retry-after")) if response is not None else 1
        error: CallError
        if ended is Ended.REFUSED:
            error = Refused(name, "it has no room for the call now; it was not done", hint=NO_ROOM)
        elif ended is Ended.SPENT:
            waited = f"no answer within {came.time_s:.3g} s, after which nobody waits"
            error = DeadlineExceeded(name, waited, hint=f"{look}; `deadline` of the service, `deadline=` of the call")
        elif ended is Ended.TIMED_OUT:
            error = Unavailable(name, f"no answer within timeout={came.time_s:.3g}", hint=look)
        elif isinstance(came.fault, TooLarge):
            return BadAnswer(
                name, "the answer is larger than body_max", hint="Give `body_max=` in bytes, or `stream` it."
            )
        elif ended is Ended.GARBAGE:
            assert came.fault is not None
            return BadAnswer(name, f"what came is no answer: {reason_of(came.fault)}", hint=look)
        else:
            why = reason_of(came.fault) if came.fault is not None else "none of its replicas gave an answer"
            tried = f"; {final}" if final else ""
            done = "nothing was sent" if ended is Ended.UNSENT else "it may have been done"
            error = Unavailable(name, f"{why}; {done}{tried}", hint=look)
        error.retry_after_s = again_s
        return error
