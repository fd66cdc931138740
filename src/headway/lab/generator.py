"""The load generator judges itself: did it make the rate it was asked for, and did its own delays colour the figures?

A moment in which the machine had no core for it happens everywhere and is worth a remark. The figures are in doubt only
when many requests left late, or were never sent at all. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cause = Literal["own core used up", "no core to run on", "ports or descriptors", "held up"]

# Reasons of failure for which the generator, not the system, is to blame.
TOO_SLOW = "client too slow"
OUT_OF_PORTS = "client out of ports"
OUT_OF_DESCRIPTORS = "client out of descriptors"
CONNECTION_LIMIT = "client connection limit"  # as many are open as it may hold, by its descriptors or by the plan
OWN_FAULTS = (TOO_SLOW, OUT_OF_PORTS, OUT_OF_DESCRIPTORS, CONNECTION_LIMIT)

# Above this share of a core the generator has no room to be on time.
CPU_SHARE_MAX = 0.9
# The lag is part of every latency reported; beyond this it colours figures that people act on.
SEND_LAG_MAX_MS = 10.0
# So many may leave later than that before it is more than a moment: p50 and p90 still tell of the system alone.
SENT_LATE_SHARE_MAX = 0.05
# So many may be its own failures before the result is more about the generator than about the system.
OWN_FAULTS_SHARE_MAX = 0.01
# Below this it is not worth a word.
REMARK_SHARE = 0.01
# Waiting this long for a core, compared with the load, explains lateness that its own work does not.
WAITED_SHARE_MIN = 0.02
# A burst cannot leave at one instant (about 0.1 ms a connection); a tenth of the deadline is still "at once".
BURST_LAG_SHARE_MAX = 0.1


@dataclass(frozen=True, slots=True)
class Generator:
    """The generator's view of itself: were its figures limited by the system, or by itself?"""

    cpu_share: float  # of one core; it cannot use more
    send_lag_ms_p99: float
    bottleneck: bool
    cause: Cause | None = None  # of the bottleneck, or of a moment's lateness
    waited_share: float = 0.0  # of the load, in which it was ready and no core was free
    sent_late_share: float = 0.0  # of the requests, more than 10 ms after they were due, or not at all
    made_per_s: float = 0.0  # requests that it did send, per second


@dataclass(frozen=True, slots=True)
class Effort:
    """What sending took: measured by the engine until the last request had left."""

    asked_s: float  # in which the requests were due
    sent_s: float  # in which they left
    ran_s: float  # on a core
    waited_s: float  # for a core
    burst_deadline_s: float | None = None  # of a burst, whose requests cannot all leave when they are due


def judged(effort: Effort, offered: int, own_faults: dict[str, int], sent_late: int, lag_ms_p99: float) -> Generator:
    """The generator's view of a load of `offered` requests, of which `sent_late` left too late."""
    took_s = effort.sent_s or effort.asked_s
    cpu_share = effort.ran_s / took_s if took_s > 0 else 0.0
    waited_share = effort.waited_s / took_s if took_s > 0 else 0.0
    late_share = sent_late / offered if offered else 0.0
    fault_share = sum(own_faults.values()) / offered if offered else 0.0
    if effort.burst_deadline_s is not None:
        late = lag_ms_p99 > effort.burst_deadline_s * 1000 * BURST_LAG_SHARE_MAX
        busy = False
    else:
        late = late_share > SENT_LATE_SHARE_MAX
        busy = cpu_share > CPU_SHARE_MAX
    bottleneck = late or busy or fault_share > OWN_FAULTS_SHARE_MAX
    worth_a_word = bottleneck or (effort.burst_deadline_s is None and late_share >= REMARK_SHARE)
    span_s = max(effort.asked_s, effort.sent_s)
    return Generator(
        cpu_share=round(cpu_share, 3),
        send_lag_ms_p99=lag_ms_p99,
        bottleneck=bottleneck,
        cause=_cause(cpu_share, waited_share, own_faults) if worth_a_word else None,
        waited_share=round(waited_share, 3),
        sent_late_share=round(late_share, 4),
        made_per_s=round((offered - sum(own_faults.values())) / span_s, 2) if span_s > 0 else 0.0,
    )


def _cause(cpu_share: float, waited_share: float, own_faults: dict[str, int]) -> Cause:
    lacked = sum(count for reason, count in own_faults.items() if reason != TOO_SLOW)
    if lacked and lacked >= own_faults.get(TOO_SLOW, 0):
        return "ports or descriptors"
    if cpu_share > CPU_SHARE_MAX:
        return "own core used up"
    if waited_share >= WAITED_SHARE_MIN:
        # A thread that shares its core runs and waits by turns: what it lacked is a core, however much it used.
        return "no core to run on"
    return "held up"
