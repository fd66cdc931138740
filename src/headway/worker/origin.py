"""Who asks, what for, and until when: the one internal header that the edge adds to each request.

`x-headway-from: SCHEME ADDRESS PORT FLAG CLASS DUE_MS`, always the last header, taken out before the app sees it. FLAG
is `stream` for an event stream, else `-`; CLASS the number of the request's class; DUE_MS the moment after which nobody
waits any more, in milliseconds of the wall clock since the epoch. An edge from before an upgrade may still say
`SCHEME ADDRESS PORT` or `SCHEME ADDRESS PORT stream`. What cannot be read counts as absent: no request fails by it.
"""

from __future__ import annotations

from typing import NamedTuple

from .telemetry import CLASSES_MAX

_SCHEMES = frozenset({"http", "https"})
_NUMBERS = {str(number): number for number in range(CLASSES_MAX)}
_PORT_MAX = 65535


class Origin(NamedTuple):
    """One reading of the header."""

    address: str
    port: int
    is_secure: bool
    is_stream: bool = False
    number: int = 0  # of the class
    due_ms: int | None = None  # None = not said, or not to be read
    has_due: bool = False  # whether its form has a place for it


def read(value: str) -> Origin | None:
    """The header's value taken apart; None when it is none of the known forms."""
    parts = value.split(" ")
    number, due_ms = 0, None
    if len(parts) == 6:
        if parts[4] not in _NUMBERS:
            return None
        number = _NUMBERS[parts[4]]
        due_ms = moment_ms(parts[5])
    elif len(parts) not in (3, 4):
        return None
    scheme, address, port = parts[:3]
    if scheme not in _SCHEMES or not address or len(port) > 5 or not port.isdecimal() or int(port) > _PORT_MAX:
        return None
    is_stream = len(parts) > 3 and parts[3] == "stream"
    return Origin(address, int(port), scheme == "https", is_stream, number, due_ms, len(parts) == 6)


def moment_ms(text: str | bytes) -> int | None:
    """DUE_MS as a number; None when it is none. (A variable that HAProxy never set is rendered as nothing or `-`.)"""
    try:
        return int(text)
    except ValueError:
        return None
