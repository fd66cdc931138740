"""Durations, sizes and rates as people write them ("250ms", "512MiB", "200/s"), read into plain numbers and back.

`parse_*` reads what a person wrote, `spell_*` writes a value so that `parse_*` reads exactly the same value again,
`format_*` rounds it for a person's eye.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

_DURATION_S = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
# A bare K, M, G, T is binary, as Docker and systemd read memory sizes; KB, MB … are decimal, as disks are sold.
_SIZE_BYTES = {
    "b": 1,
    **dict.fromkeys(("k", "kib"), 2**10),
    **dict.fromkeys(("m", "mib"), 2**20),
    **dict.fromkeys(("g", "gib"), 2**30),
    **dict.fromkeys(("t", "tib"), 2**40),
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
}
_RATE_S = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

# Sixteen digits are beyond any sensible value and keep the arithmetic finite.
_NUMBER = r"([0-9]{1,16}(?:\.[0-9]{1,16})?)"
_PART = re.compile(rf"{_NUMBER}\s*([A-Za-z]+)\s*")
_RATE = re.compile(rf"\s*{_NUMBER}\s*/\s*([a-z]+)\s*")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse_duration_s(value: object) -> float:
    """Seconds of "250ms", "30s", "1m30s", "1h"; ValueError with an example otherwise."""
    if isinstance(value, str) and re.fullmatch(rf"\s*(?:{_PART.pattern})+", value):
        parts = _PART.findall(value)
        if all(unit in _DURATION_S for _, unit in parts):
            seconds = math.fsum(float(number) * _DURATION_S[unit] for number, unit in parts)
            if seconds > 0:
                return seconds
    if _is_number(value):
        raise ValueError(f'{value} is not a duration; write its unit too, like "{value}s" or "250ms"')
    raise ValueError(f'{_quoted(value)} is not a duration; write it like "250ms", "30s" or "5m"')


def parse_size_bytes(value: object) -> int:
    """Bytes of "512MiB", "1GiB", "64KB"; ValueError with an example otherwise."""
    if isinstance(value, str) and (match := _PART.fullmatch(value.strip())) and match[2].lower() in _SIZE_BYTES:
        size_bytes = int(Decimal(match[1]) * _SIZE_BYTES[match[2].lower()])
        if size_bytes > 0:
            return size_bytes
    if _is_number(value):
        raise ValueError(f'{value} is not a size; write its unit too, like "{value}MiB" or "1GiB"')
    raise ValueError(f'{_quoted(value)} is not a size; write it like "512MiB" or "1GiB"')


def parse_rate_per_s(value: object) -> float:
    """Events per second of "200/s" or "600/m"; ValueError with an example otherwise."""
    if isinstance(value, str) and (match := _RATE.fullmatch(value)) and match[2] in _RATE_S:
        rate_per_s = float(match[1]) / _RATE_S[match[2]]
        if rate_per_s > 0:
            return rate_per_s
    if _is_number(value):
        raise ValueError(f'{value} is not a rate; write its unit too, like "{value}/s" or "600/m"')
    raise ValueError(f'{_quoted(value)} is not a rate; write it like "200/s" or "600/m"')


def _quoted(value: object) -> str:
    """A wrong value as the file shows it, cut short."""
    if isinstance(value, str):
        return f'"{value[:40]}…"' if len(value) > 40 else f'"{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else "this value"


def _positional(value: float) -> str:
    """All digits of a float without an exponent, so that reading it back gives the same float."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def spell_duration(seconds: float) -> str:
    """`parse_duration_s` backwards, exact: "0.25s", "30s"."""
    return f"{_positional(seconds)}s"


def spell_size(size_bytes: int) -> str:
    """`parse_size_bytes` backwards, exact: "512MiB", "1000B"."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def spell_rate(rate_per_s: float) -> str:
    """`parse_rate_per_s` backwards, exact: "200/s"."""
    return f"{_positional(rate_per_s)}/s"


def _three_digits(value: float) -> str:
    """About three significant digits, never with an exponent: 0.25, 1.5, 79, 1000."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_duration(seconds: float) -> str:
    """The shortest way a person would write it: "250 ms", "1.5 s", "3 min", "2 h"."""
    if seconds < 1:
        milliseconds = seconds * 1000
        return f"{_three_digits(milliseconds)} ms" if milliseconds >= 0.001 else "0 ms"
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < limit_s:
            return f"{_three_digits(seconds / unit_s)} {unit}"
    return f"{_three_digits(seconds / 3600)} h"


def format_bytes(count: float) -> str:
    """ "512 B", "79 MiB", "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{_three_digits(count)} {unit}"
        count /= 1024
    return f"{_three_digits(count)} GiB"
