"""A drill changes the number of replicas, and gives it back to whom it belonged: by hand, declared, or the load."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from headway.control.client import ControlClient
from headway.errors import NotRunning
from headway.lab.drill.replicas import Replicas


class Control:
    """A control API whose service has the number it is told at once, or never (`stuck`)."""

    def __init__(self, override: int | None, *, stuck: bool = False, gone: bool = False) -> None:
        self.override, self.stuck, self.gone = override, stuck, gone
        self.automatic = 1
        self.asked: list[Any] = []

    def status(self) -> dict[str, Any]:
        if self.gone:
            raise NotRunning("nothing runs here")
        wanted = self.override or self.automatic
        state = "starting" if self.stuck and self.asked else "ready"
        replicas = [{"name": f"web.{n}", "pid": n, "state": state} for n in range(1, wanted + 1)]
        return {"services": {"web": {"wanted": wanted, "override": self.override, "replicas": replicas}}}

    def ask(self, _method: str, path: str, data: dict[str, Any], **_options: Any) -> Any:
        assert path == "/scale"
        self.asked.append(data["replicas"])
        self.override = None if data["replicas"] == "auto" else data["replicas"]


def replicas_of(control: Control) -> Replicas:
    return Replicas(cast(ControlClient, control), "web")


@pytest.mark.parametrize("before", [None, 3])
def test_the_number_belongs_to_whom_it_belonged(before: int | None) -> None:
    control = Control(before)

    async def drilled() -> None:
        replicas = replicas_of(control)
        async with replicas.given_back():
            await replicas.scale(2)
            assert control.override == 2

    asyncio.run(drilled())
    assert control.override == before
    assert control.asked == [2, before or "auto"]


def test_an_interrupt_gives_it_back_at_once() -> None:
    control = Control(None, stuck=True)

    async def drilled() -> None:
        replicas = replicas_of(control)
        async with replicas.given_back():
            await replicas.scale(2)

    async def interrupted() -> None:
        running = asyncio.create_task(drilled())
        while not control.asked:
            await asyncio.sleep(0.001)
        running.cancel()
        await running

    began_s = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted())
    assert control.asked == [2, "auto"]
    assert time.monotonic() - began_s < 50


def test_a_system_that_is_gone_does_not_hide_what_went_wrong() -> None:
    control = Control(None)

    async def drilled() -> None:
        async with replicas_of(control).given_back():
            control.gone = True
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        asyncio.run(drilled())


def test_waiting_for_a_replica_can_be_interrupted() -> None:
    control = Control(1)

    async def watched() -> None:
        async with asyncio.timeout(0.1):
            await replicas_of(control).back_s(2, 1, 60)

    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(watched())
    assert time.monotonic() - began_s < 50
