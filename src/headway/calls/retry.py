"""Which calls are tried again, and after what pause. Pure."""

from __future__ import annotations

from enum import Enum

ATTEMPTS_MAX = 3
PAUSE_S = 0.02  # before the second attempt, at most; twice that before the third
LEFT_MIN_S = 0.005  # with less than that left another attempt has no point
# RFC 9110, 9.2.2: done twice is done once.
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


class Ended(Enum):
    """How an attempt ended."""

    ANSWERED = "answered"
    SICK = "sick"  # answered by the app: 502, 503 or 504
    NO_POINT = "no point"  # the same, and the app says that a retry has no point
    REFUSED = "refused"  # for want of room
    SPENT = "spent"  # the deadline has passed
    TIMED_OUT = "timed out"  # this attempt's own time
    UNSENT = "unsent"  # nobody was there to send it to
    BROKEN = "broken"  # it may have been done
    GARBAGE = "garbage"  # what came is no answer


_AGAIN_IF_REPEATABLE = frozenset({Ended.SICK, Ended.TIMED_OUT, Ended.BROKEN})


def is_repeatable(method: str, has_key: bool) -> bool:
    """Whether doing it twice is as good as once; a key for it says that the service sees to that itself."""
    return has_key or method in _REPEATABLE


def may_repeat(ended: Ended, attempt: int, is_repeatable: bool, is_replayable: bool, left_s: float) -> bool:
    """Whether a call may be tried again after attempt number `attempt`, if the budget allows it.

    `is_replayable`: its body is there as a whole, and not a stream that has been read.
    """
    if attempt >= ATTEMPTS_MAX or left_s < LEFT_MIN_S or not is_replayable:
        return False
    return ended is Ended.UNSENT or (is_repeatable and ended in _AGAIN_IF_REPEATABLE)


def pause_s(attempt: int, left_s: float, chance: float) -> float:
    """How long to wait after attempt number `attempt`; `chance` is between 0 and 1.

    Anywhere from nothing to the whole ("full jitter", Brooker, "Exponential Backoff and Jitter", 2015): calls that
    failed together do not come back together.
    """
    return min(PAUSE_S * (1 << attempt - 1) * chance, left_s / 2)
