"""What is promised for a fault, held against what was measured: rows to read, and one sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headway.lab.fault import Fault
from headway.model.units import format_duration

OUT_S = 2.0  # a stopped replica is out of the edge
AGAIN_S = 2.0  # a dead part is started again; the app's own start-up comes on top
EDGE_BACK_S = 0.5
EDGE_REPLACED_S = 2.0
CACHE_REPLACED_S = 6.0  # apps go on without it meanwhile: it is given more time than the edge


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise for the fault. `kept` None: nothing is promised, or it cannot be told from outside."""

    text: str
    measured: str
    kept: bool | None


@dataclass(frozen=True, slots=True)
class Broken:
    """Everything measured of one fault. Times are seconds since it; None = it did not happen while it was watched."""

    fault: Fault
    url: str
    rate_per_s: float
    slow_s: float
    offered: int
    ok: int
    failed: int
    refused: int
    slow: int
    slowest_ms: float | None
    median_before_ms: float | None
    noticed_s: float | None
    noticed_by: str
    out_s: float | None
    restarted_s: float | None
    restored_s: float | None
    recovered_s: float | None
    watched_s: float
    failures: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The document of `headway break --json`."""
        return {
            "what": self.fault.part.label,
            "how": self.fault.how,
            "failed": self.failed,
            "slow": self.slow,
            "noticed_s": self.noticed_s,
            "recovered_s": self.recovered_s,
            "refused": self.refused,
            "ok": self.ok,
            "offered": self.offered,
            "slowest_ms": self.slowest_ms,
            "slow_ms": round(self.slow_s * 1000, 1),
            "median_before_ms": self.median_before_ms,
            "noticed_by": self.noticed_by or None,
            "out_s": self.out_s,
            "restarted_s": self.restarted_s,
            "restored_s": self.restored_s,
            "watched_s": round(self.watched_s, 3),
            "url": self.url,
            "rate_per_s": self.rate_per_s,
            "failures": dict(self.failures),
            "promises": [
                {"promised": promise.text, "measured": promise.measured, "kept": promise.kept}
                for promise in promises(self)
            ],
            "verdict": sentence(self),
        }


def after(seconds: float | None) -> str:
    """A moment after the fault, for a person."""
    return "not seen" if seconds is None else f"after {format_duration(seconds)}"


def promises(broken: Broken) -> tuple[Promise, ...]:
    """The promises for this fault with what was measured beside them."""
    return tuple(_promises(broken))


def _promises(broken: Broken) -> Iterator[Promise]:
    fault = broken.fault
    lost = broken.failed + broken.refused
    counted = f"{lost} of {broken.offered} requests came to nothing"
    match fault.part.kind, fault.how:
        case "replica", how:
            others = fault.part.ready - 1
            if others > 0:
                yield Promise("no GET fails: another replica answers it", counted, lost == 0)
            else:
                text = f"nothing: {fault.part.service} has no other replica to answer meanwhile"
                yield Promise(text, counted, None)
            if how == "hang":
                yield Promise(
                    "a stopped replica is out of the edge in 2 s", after(broken.out_s), _within(broken.out_s, OUT_S)
                )
            text = "started again within 2 s, ready after the app's own start-up"
            measured = f"started {after(broken.restarted_s)}, ready {after(broken.restored_s)}"
            yield Promise(text, measured, _within(broken.restarted_s, AGAIN_S) and broken.restored_s is not None)
        case "edge", how:
            if how == "kill":
                yield Promise("back in 0.5 s", after(broken.restored_s), _within(broken.restored_s, EDGE_BACK_S))
            else:
                measured = after(broken.restarted_s)
                yield Promise("replaced in 2 s", measured, _within(broken.restarted_s, EDGE_REPLACED_S))
            turned_away = sum(count for reason, count in broken.failures.items() if "refused" in reason)
            text = "requests in flight are cut, no new connection is refused"
            yield Promise(text, f"{broken.failed} cut, {turned_away} connections refused", turned_away == 0)
        case "controller", "kill":
            unseen = lost == 0 and broken.slow == 0
            yield Promise("no request notices", f"{counted}, {broken.slow} were slow", unseen)
            yield Promise("back in 2 s", after(broken.restored_s), _within(broken.restored_s, AGAIN_S))
        case "controller", _:
            yield Promise("nothing: while it hangs, what dies is not replaced, for 30 s at most", counted, None)
        case "cache", how:
            yield Promise("no caller sees an error", counted, lost == 0)
            if how == "kill":
                yield Promise("back in 2 s, empty", after(broken.restored_s), _within(broken.restored_s, AGAIN_S))
            else:
                measured = after(broken.restarted_s)
                yield Promise("replaced in 6 s", measured, _within(broken.restarted_s, CACHE_REPLACED_S))
        case _, "kill":
            yield Promise("back by itself", after(broken.restored_s), broken.restored_s is not None)
            text = "what needs it is refused at once, never left waiting"
            yield Promise(text, f"{counted}, {broken.slow} were slow", broken.slow == 0 and not _gave_up(broken))
            yield Promise("no acknowledged write is lost", "cannot be told from outside", None)
        case _:
            yield Promise("nothing: what needs it waits until it goes on", f"{counted}, {broken.slow} were slow", None)


def _within(seconds: float | None, limit_s: float) -> bool:
    return seconds is not None and seconds <= limit_s


def _gave_up(broken: Broken) -> bool:
    return any("deadline" in reason for reason in broken.failures)


def sentence(broken: Broken) -> str:
    """The whole in one or two sentences."""
    what = broken.fault.part.label
    if broken.recovered_s is None:
        return (
            f"{what} {broken.fault.done}, and after {broken.watched_s:.0f} s not all is as it was: "
            f"headway explain {broken.fault.part.process} says what was tried."
        )
    lost = broken.failed + broken.refused
    ended = f"none of {broken.offered} requests" if not lost else f"{lost} of {broken.offered} requests"
    slow = f", {broken.slow} {'was' if broken.slow == 1 else 'were'} slow" if broken.slow else ""
    back = f"all was as before {after(broken.recovered_s)}"
    told = f"{what} {broken.fault.done}: {ended} came to nothing{slow}, and {back}."
    rows = promises(broken)
    missed = [promise.text for promise in rows if promise.kept is False]
    if missed:
        return f"{told} Not kept: {'; '.join(missed)}."
    return f"{told} What is promised for this was kept." if any(row.kept for row in rows) else told
