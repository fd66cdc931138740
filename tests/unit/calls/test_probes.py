"""A probe that ends before anything was sent leaves it to the next call, or a service that is back is never asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from headway.calls.breaker import ATTEMPTS_MIN
from headway.calls.client.asked import Outgoing
from headway.calls.client.calling import Caller
from headway.calls.client.target import Target
from headway.calls.client.told import Told
from headway.calls.client.wire import Wires
from headway.errors import DeadlineExceeded


def target_at(folder: Path, calls_max: int = 8) -> Target:
    return Target(Told("inventory", str(folder / "none.sock"), 20.0, calls_max, "web", None), None)


def half_open(target: Target) -> None:
    """As after a pause: the next call is a probe."""
    now_s = monotonic()
    for _ in range(ATTEMPTS_MIN):
        target.breaker.failed(now_s, now_s, 0.0)
    assert target.breaker.state(now_s) == "open"
    target.breaker.until_s = now_s


def test_one_whose_time_is_over_by_then(tmp_path: Path) -> None:
    async def use() -> None:
        target = target_at(tmp_path)
        half_open(target)
        caller = Caller(target, Wires("inventory", target.told.socket))
        with pytest.raises(DeadlineExceeded, match="nothing was sent"):
            await caller.call(Outgoing("GET", "/"), None, 1e-9, 1000)
        assert target.enter(monotonic()) is None
        counts = target.counts()
        assert (counts["deadline"], counts["attempts"], counts["in_flight"]) == (1, 0, 1)

    asyncio.run(use())


def test_one_that_is_given_up_in_the_moment_that_it_has_its_place(tmp_path: Path) -> None:
    async def use() -> None:
        target = target_at(tmp_path, calls_max=1)
        assert target.enter(monotonic()) is None
        half_open(target)
        waiter = target.enter(monotonic())
        assert waiter is not None
        waiting = asyncio.create_task(target.wait(waiter, 20.0))
        await asyncio.sleep(0)
        target.leave(monotonic())
        assert waiter.has_place
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert target.enter(monotonic()) is None

    asyncio.run(use())


def test_one_whose_event_loop_has_ended(tmp_path: Path) -> None:
    target = target_at(tmp_path, calls_max=1)
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        assert target.enter(monotonic()) is None
        half_open(target)
        assert target.enter(monotonic()) is not None

    loop.run_until_complete(begin())
    loop.close()
    target.leave(monotonic())
    assert target.enter(monotonic()) is None
