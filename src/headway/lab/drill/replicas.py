"""The replicas of the service under drill: who they are, one of them killed, more or fewer of them. Acts, and waits.

What waits lets go between two looks, so that a drill that is interrupted ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from headway.control.client import ControlClient
from headway.errors import HeadwayError
from headway.process.linux import send_signal, start_ticks

_POLL_S = 0.02
_SCALE_S = 90.0


@dataclass(frozen=True, slots=True)
class Replicas:
    """One service of a running system, through its control API."""

    client: ControlClient
    service: str

    def told(self) -> dict[str, Any]:
        """The service as `status` tells it."""
        found: dict[str, Any] = self.client.status()["services"][self.service]
        return found

    def entries(self) -> list[dict[str, Any]]:
        """The replicas as `status` tells them."""
        found: list[dict[str, Any]] = self.told()["replicas"]
        return found

    def ready_pids(self) -> list[int]:
        """Processes of those that serve."""
        return [entry["pid"] for entry in self.entries() if entry["state"] == "ready" and entry["pid"]]

    def edge_pid(self) -> int | None:
        """The process that stands before them."""
        pid: int | None = self.client.status()["edge"]["pid"]
        return pid

    def kill_one(self) -> tuple[str, int]:
        """SIGKILL one that serves; its name and pid. HeadwayError when there is none."""
        for entry in self.entries():
            pid = entry["pid"]
            ticks = start_ticks(pid) if pid and entry["state"] == "ready" else None
            if ticks is not None and send_signal(pid, ticks, signal.SIGKILL):
                return str(entry["name"]), int(pid)
        raise HeadwayError(f"no replica of {self.service} is ready to be killed", hint="headway status")

    async def back_s(self, count: int, killed_pid: int, timeout_s: float) -> float | None:
        """Seconds until `count` are ready again without the killed one; None when that takes longer."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < timeout_s:
            pids = await asyncio.to_thread(self.ready_pids)
            if len(pids) >= count and killed_pid not in pids:
                return round(time.monotonic() - began_s, 2)
            await asyncio.sleep(_POLL_S)
        return None

    async def scale(self, count: int) -> None:
        """Have exactly `count` replicas, all ready."""
        await asyncio.to_thread(self._ask, count)
        await self._await_whole(count)

    @contextlib.asynccontextmanager
    async def given_back(self) -> AsyncIterator[None]:
        """Within it the number may be changed; whatever happens, it then belongs to whom it belonged before.

        That is the one who scaled by hand, else the declaration, or the load where the declaration says so.
        """
        before = (await asyncio.to_thread(self.told))["override"]
        owner = "auto" if before is None else before
        try:
            yield
        except BaseException:
            with contextlib.suppress(HeadwayError):  # the error to see is the first one
                await asyncio.to_thread(self._ask, owner)
            raise
        await asyncio.to_thread(self._ask, owner)
        await self._await_whole(None)

    def _ask(self, replicas: int | str) -> None:
        self.client.ask("POST", "/scale", {"service": self.service, "replicas": replicas})

    async def _await_whole(self, count: int | None) -> None:
        """Wait until there are `count`, all ready; None: as many as are wanted."""
        until_s = time.monotonic() + _SCALE_S
        while time.monotonic() < until_s:
            told = await asyncio.to_thread(self.told)
            entries, wanted = told["replicas"], told["wanted"] if count is None else count
            if len(entries) == wanted and all(entry["state"] == "ready" for entry in entries):
                return
            await asyncio.sleep(_POLL_S)
        raise HeadwayError(
            f"{self.service} did not come to {wanted} ready replicas within {_SCALE_S:.0f} s",
            hint="name other sizes: --sizes 1",
        )
