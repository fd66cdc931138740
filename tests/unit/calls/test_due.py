"""The time of an attempt ends, by a timer of its own or by the common one, and never somebody else's cancellation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from time import monotonic
from typing import Any

import pytest

from headway.calls.client import due
from headway.calls.client.due import Dues


@pytest.fixture(params=["own", "common"])
def _timer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "common":
        monkeypatch.setattr(due, "_OWN_S", 0.0)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 100))


@pytest.mark.usefixtures("_timer")
def test_it_ends_what_takes_longer_and_nothing_else() -> None:
    async def use() -> None:
        dues = Dues(asyncio.get_running_loop())

        async def wait(time_s: float, work_s: float) -> str:
            began_s = monotonic()
            try:
                with dues.within(time_s, began_s):
                    await asyncio.sleep(work_s)
            except TimeoutError:
                assert time_s <= monotonic() - began_s + 0.01
                return "late"
            await asyncio.sleep(0.3)  # what ended in time is left alone afterwards
            return "in time"

        # What ends in time is given as much as its timer allows.
        most_s = 1.9 if due._OWN_S else 60.0
        found = await asyncio.gather(*(wait(0.3, 60.0) if number % 2 else wait(most_s, 0.05) for number in range(20)))
        assert found == ["in time", "late"] * 10
        await asyncio.sleep(0.3)
        assert dues._handle is None  # nothing to look after: nobody looks
        assert await wait(0.2, 60.0) == "late"

    run(use())


@pytest.mark.usefixtures("_timer")
def test_somebody_elses_cancellation_goes_on() -> None:
    async def use() -> None:
        dues = Dues(asyncio.get_running_loop())

        async def wait() -> None:
            with dues.within(1.5, monotonic()):
                await asyncio.sleep(60)

        for after_s in (0.05, 1.5):  # also in the moment that the time is over
            task = asyncio.create_task(wait())
            await asyncio.sleep(after_s)
            task.cancel()
            with pytest.raises((asyncio.CancelledError, TimeoutError)):
                await task
            assert task.cancelled() or after_s == 1.5
        with pytest.raises(TimeoutError) as told:
            await asyncio.wait_for(wait(), 0.1)
        assert not isinstance(told.value.__cause__, TimeoutError)
        with pytest.raises(KeyError), dues.within(0.3, monotonic()):
            raise KeyError

    run(use())


def test_a_loop_that_was_held_up_ends_nothing_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "_OWN_S", 0.0)

    async def use() -> None:
        dues = Dues(asyncio.get_running_loop())
        with dues.within(60.0, monotonic()):
            time.sleep(2.5)
            with dues.within(3.0, monotonic()):
                await asyncio.sleep(1.0)

        async def hold_up() -> None:
            with dues.within(0.1, monotonic()):
                time.sleep(0.3)
                await asyncio.sleep(1)

        with pytest.raises(TimeoutError):
            await hold_up()

    run(use())
