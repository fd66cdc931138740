"""How long a call may take, and what that says of the service that did not answer in it. Pure."""

from __future__ import annotations

# Of what is left of the request at work a call leaves a part, for an answer without it: a fallback, a clear refusal.
RESERVE_SHARE, RESERVE_MAX_S = 0.1, 0.25
_TELLING_S = 1.0
_TELLING_FACTOR = 2.0
_SMOOTH = 0.1
_MS_MAX = 86_400_000


def allowed_s(declared_s: float, deadline_s: float | None, left_s: float) -> float:
    """Seconds for a call: what its service may take, what the caller gives it, what is left of the request at work."""
    allowed = min(declared_s, left_s - min(left_s * RESERVE_SHARE, RESERVE_MAX_S))
    return allowed if deadline_s is None else min(allowed, deadline_s)


def as_ms(left_s: float) -> str:
    """Relative milliseconds, as they are passed on; at least one, for none left is not sent at all."""
    return str(max(1, min(_MS_MAX, int(left_s * 1000))))


def is_telling(allowed: float, usual_s: float) -> bool:
    """Whether no answer within `allowed` seconds says something of the service, and not of an impatient caller."""
    return allowed >= _TELLING_S or allowed >= _TELLING_FACTOR * usual_s


def smoothed(usual_s: float, took_s: float) -> float:
    """How long an answer usually takes, with one more."""
    return took_s if not usual_s else usual_s + _SMOOTH * (took_s - usual_s)
