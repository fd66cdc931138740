"""The replicas of the service under drill: who they are, one of them killed, more or fewer of them. Acts, and waits."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import Any

from headway.control.client import ControlClient
from headway.errors import HeadwayError
from headway.process.linux import send_signal, start_ticks

_POLL_S = 0.02
_SCALE_S = 90.0


@dataclass(frozen=True, slots=True)
class Replicas:
    """One service of a running system, through its control API. Every call blocks."""

    client: ControlClient
    service: str

    def entries(self) -> list[dict[str, Any]]:
        """The replicas as `status` tells them."""
        found: list[dict[str, Any]] = self.client.status()["services"][self.service]["replicas"]
        return found

    def ready_pids(self) -> list[int]:
        """Processes of those that serve."""
        return [entry["pid"] for entry in self.entries() if entry["state"] == "ready" and entry["pid"]]

    def kill_one(self) -> tuple[str, int]:
        """SIGKILL one that serves; its name and pid. HeadwayError when there is none."""
        for entry in self.entries():
            pid = entry["pid"]
            ticks = start_ticks(pid) if pid and entry["state"] == "ready" else None
            if ticks is not None and send_signal(pid, ticks, signal.SIGKILL):
                return str(entry["name"]), int(pid)
        raise HeadwayError(f"no replica of {self.service} is ready to be killed", hint="headway status")

    def back_s(self, count: int, killed_pid: int, timeout_s: float) -> float | None:
        """Seconds until `count` are ready again without the killed one; None when that takes longer."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < timeout_s:
            pids = self.ready_pids()
            if len(pids) >= count and killed_pid not in pids:
                return round(time.monotonic() - began_s, 2)
            time.sleep(_POLL_S)
        return None

    def scale(self, count: int) -> None:
        """Have exactly `count` replicas, all ready."""
        self.client.ask("POST", "/scale", {"service": self.service, "replicas": count})
        until_s = time.monotonic() + _SCALE_S
        while time.monotonic() < until_s:
            entries = self.entries()
            if len(entries) == count and all(entry["state"] == "ready" for entry in entries):
                return
            time.sleep(_POLL_S)
        raise HeadwayError(
            f"{self.service} did not come to {count} ready replicas within {_SCALE_S:.0f} s",
            hint="name other sizes: --sizes 1",
        )
