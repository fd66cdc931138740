"""What an answer means: whether an app gave it, and if not, why there is none. Pure."""

from __future__ import annotations

from headway.calls.retry import Ended
from headway.model.calls import NO_RETRY, REFUSED, SPENT, UNAVAILABLE

_MARKS = {REFUSED: Ended.REFUSED, SPENT: Ended.SPENT, UNAVAILABLE: Ended.BROKEN, NO_RETRY: Ended.NO_POINT}
_SICK = frozenset({502, 503, 504})
RETRY_AFTER_MAX_S = 3600


def meaning(status: int, mark: str | None) -> Ended:
    """How the attempt ended, by the status and Headway's mark on it."""
    if status not in _SICK:
        return Ended.ANSWERED
    return _MARKS.get(mark or "", Ended.SICK)


def retry_after_s(text: str | None) -> int:
    """Seconds after which to come again, by the header; a date or nothing counts as one second."""
    if text is None or not text.isascii() or not text.isdigit():
        return 1
    return min(RETRY_AFTER_MAX_S, max(1, int(text[:6])))
