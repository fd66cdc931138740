"""Breaks one part of a running system under load and watches until all is as before.

A hang is always ended (lab.hang): whatever happens to the one who watches (an error, Ctrl-C, SIGKILL), what was stopped
is told to go on. Signals go to a pid *and* the moment its process started, so that no other process is ever hit.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headway.control.client import ControlClient
from headway.edge.tail import Tail
from headway.errors import Conflict, HeadwayError
from headway.lab.aftermath import PATIENCE_S, Aftermath, Look, calm_of
from headway.lab.fault import FAILED_BEFORE_MAX, Fault, slow_bound_s
from headway.lab.fault_verdict import Broken
from headway.lab.hang import Hang
from headway.lab.outcome import LoadResult, Progress
from headway.lab.steady import SteadyLoad
from headway.lab.target import Request
from headway.model.units import format_duration
from headway.process.folders import Folders
from headway.process.linux import send_signal, start_ticks
from headway.process.record import read_record

# Of load on the whole system: what gives a median and a p99 to go by, for 2 s at most.
BEFORE_S, BEFORE_REQUESTS = 2.0, 100
_RUN_UP_S, _RUN_UP_REQUESTS = 0.5, 25  # of the load that goes on over the fault
_DEADLINE_S = 10.0
_EVERY_S = 0.025  # a look costs about a millisecond; what is to be told apart are tenths of a second
_ASK_TIMEOUT_S = 0.25
_LOAD_MAX_S = 900.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """A fault, and the load that measures it."""

    fault: Fault
    url: str  # with the path
    rate_per_s: float
    slo_s: float | None = None
    host: str = ""  # of the Host header, where the service is known by that


def break_part(plan: FaultPlan, folders: Folders, client: ControlClient, say: Say) -> Broken:
    """Load, break, watch; HeadwayError before anything is broken when it could not be measured."""
    whom = f" as {plan.host}" if plan.host else ""
    before_s = min(BEFORE_S, BEFORE_REQUESTS / plan.rate_per_s)
    lasting = f"{format_duration(before_s)} before anything is broken"
    say(f"load      {plan.rate_per_s:g} requests/s to {plan.url}{whom}, {lasting}")
    before = _measure_before(plan, before_s)
    median_ms = before.latency_ms["p50"] or 0.0
    slow_s = slow_bound_s(plan.slo_s, median_ms / 1000)
    with _steady(plan, slow_s) as load:
        load.wait_for(offered=max(1, min(_RUN_UP_REQUESTS, round(plan.rate_per_s * _RUN_UP_S))))
        started = load.progress()
        # What arrives within the slowest answer's time is in flight at once; twice that is chance, more is a queue.
        in_flight_max = math.ceil(2 * plan.rate_per_s * (before.latency_ms["p99"] or 0.0) / 1000) + 3
        aftermath = Aftermath(plan.fault, client.status(), _bad(started), in_flight_max, calm_of(plan.rate_per_s))
        watched_s = _Watching(plan.fault, folders, client, load, aftermath, say).run()
    return _told(plan, load.result, started, aftermath, slow_s, median_ms, watched_s)


def _steady(plan: FaultPlan, slow_s: float | None) -> SteadyLoad:
    # Our own edge on this machine: a certificate for a public name does not fit its address.
    return SteadyLoad(
        plan.url,
        plan.rate_per_s,
        requests=(Request(host=plan.host),),
        slo_s=slow_s,
        deadline_s=_DEADLINE_S,
        duration_max_s=min(_LOAD_MAX_S, 4_000_000 / plan.rate_per_s),
        insecure=plan.url.startswith("https:"),
    )


def _measure_before(plan: FaultPlan, lasting_s: float) -> LoadResult:
    with _steady(plan, None) as load:
        load.wait_for(offered=max(2, round(plan.rate_per_s * lasting_s)))
    result = load.result
    bad = result.failed + result.refused
    if bad > result.offered * FAILED_BEFORE_MAX:
        reasons = bad_reasons(result.failures, result.statuses)
        raise HeadwayError(
            f"{bad} of {result.offered} requests to {plan.url} come to nothing before anything is broken ({reasons})",
            hint="ask for what the app answers: --path /…; or look first: headway logs",
        )
    return result


def bad_reasons(failures: Mapping[str, int], statuses: Mapping[str, int]) -> str:
    """Why requests came to nothing, each reason once: a status that is a failure is counted among both."""
    refused = {f"status {code}": count for code, count in statuses.items() if code in ("503", "429")}
    return ", ".join(f"{count} x {reason}" for reason, count in {**failures, **refused}.items())


def _bad(progress: Progress) -> int:
    return progress.failed + progress.refused + progress.late


class _Watching:
    """From the fault until calm; `run` gives how long that took."""

    def __init__(
        self,
        fault: Fault,
        folders: Folders,
        client: ControlClient,
        load: SteadyLoad,
        aftermath: Aftermath,
        say: Say,
    ) -> None:
        self._fault, self._folders, self._client, self._load = fault, folders, client, load
        self._aftermath, self._say = aftermath, say
        self._journal = Tail(str(folders.journal))
        self._began_s = self._began_at = 0.0
        self._hang: Hang | None = None
        self._released = False
        self._said: set[str] = set()

    def run(self) -> float:
        """Break it and watch."""
        part, fault = self._fault.part, self._fault
        assert part.pid is not None
        assert part.ticks is not None
        if start_ticks(part.pid) != part.ticks:
            raise Conflict(f"{part.label} has become another process just now", hint="try again")
        limit_s = PATIENCE_S + (fault.for_s if fault.how == "hang" else 0.0)
        if fault.how == "hang":
            self._hang = Hang(part.pid, part.ticks, fault.for_s)
        try:
            self._began_s, self._began_at = time.monotonic(), time.time()
            if not self._done(part.pid, part.ticks):
                raise HeadwayError(
                    f"{part.label} (pid {part.pid}) cannot be signalled: it is gone, or another user's",
                    hint="headway status; run this as the user who started the system",
                )
            lasting = f", for {format_duration(fault.for_s)} at most" if self._hang else ""
            name = "SIGSTOP" if self._hang else "SIGKILL"
            self._say(f"0 ms      {part.label} {fault.done} ({name}, pid {part.pid}){lasting}")
            while (at_s := time.monotonic() - self._began_s) < limit_s and not self._aftermath.is_over(at_s):
                if self._hang is not None and (at_s >= fault.for_s or self._hang.is_pointless):
                    self._release()
                self._aftermath.see(self._look())
                self._tell()
                time.sleep(_EVERY_S)
            return time.monotonic() - self._began_s
        finally:
            self._release()

    def _done(self, pid: int, ticks: int) -> bool:
        return self._hang.begin() if self._hang is not None else send_signal(pid, ticks, signal.SIGKILL)

    def _release(self) -> None:
        if self._hang is None or self._released:
            return
        self._released = True
        if self._hang.end():
            self._say(f"{self._now():<8}  {self._fault.part.label} was told to go on")

    def _look(self) -> Look:
        document, pid, told, progress = self._status(), self._pid(), self._entries(), self._load.progress()
        return Look(
            at_s=time.monotonic() - self._began_s,  # by now all of it is so; a look begins before it is seen
            document=document,
            pid=pid,
            bad=_bad(progress),
            in_flight=progress.in_flight,
            told=told,
            released=self._released,
        )

    def _status(self) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = self._client.ask("GET", "/status", timeout_s=_ASK_TIMEOUT_S)
        except (HeadwayError, OSError, ValueError):
            return None  # the controller may be the very part that is broken
        return document

    def _pid(self) -> int | None:
        record = read_record(self._folders)
        entries = record["processes"] if record else ()
        name = self._fault.part.process
        return next((int(entry["pid"]) for entry in entries if entry["name"] == name), None)

    def _entries(self) -> tuple[tuple[float, str], ...]:
        found = []
        for line in self._journal.lines():
            try:
                entry = json.loads(line)
                since_s = max(0.0, entry["time"] - self._began_at)
                if entry["about"] == self._fault.part.process and entry["time"] >= self._began_at - 0.001:
                    what = "" if entry["what"] == "note" else f"{entry['what']}: "
                    found.append((since_s, f"{what}{entry['reason']}"))
            except (ValueError, KeyError, TypeError):
                continue  # a line cut by a full disk
        return tuple(found)

    def _now(self) -> str:
        return format_duration(time.monotonic() - self._began_s)

    def _tell(self) -> None:
        """One line for each phase, when it comes."""
        found = self._aftermath
        self._once("noticed", found.noticed_s, f"noticed: {found.noticed_by}")
        self._once("again", found.restarted_s, "runs again, as another process")
        self._once("restored", found.restored_s, "every part is as before")

    def _once(self, phase: str, at_s: float | None, text: str) -> None:
        if at_s is not None and phase not in self._said:
            self._said.add(phase)
            self._say(f"{format_duration(at_s):<8}  {text}")


def _told(
    plan: FaultPlan,
    result: LoadResult,
    started: Progress,
    aftermath: Aftermath,
    slow_s: float,
    median_ms: float,
    watched_s: float,
) -> Broken:
    """The measurement, without what had ended before the fault."""
    return Broken(
        fault=plan.fault,
        url=plan.url,
        rate_per_s=plan.rate_per_s,
        slow_s=slow_s,
        offered=result.offered - (started.offered - started.in_flight),
        ok=result.ok - started.ok,
        failed=result.failed - started.failed,
        refused=result.refused - started.refused,
        slow=result.late - started.late,
        slowest_ms=result.latency_ms["max"],
        median_before_ms=median_ms,
        noticed_s=_rounded(aftermath.noticed_s),
        noticed_by=aftermath.noticed_by,
        out_s=_rounded(aftermath.out_s),
        restarted_s=_rounded(aftermath.restarted_s),
        restored_s=_rounded(aftermath.restored_s),
        recovered_s=_rounded(aftermath.recovered_s if aftermath.is_over(watched_s) else None),
        watched_s=watched_s,
        failures=dict(result.failures),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
