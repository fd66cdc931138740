"""Durations, sizes and rates as people write them ("250ms", "512MiB", "200/s"), read into plain numbers."""

from __future__ import annotations

import re

_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_RATE_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _split(text: str) -> tuple[float, str] | None:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    return (float(match[1]), match[2]) if match else None


def parse_duration_s(value: object) -> float:
    """Seconds of "250ms", "30s", "5m", "1h"; ValueError with an example otherwise."""
    if isinstance(value, str) and (parts := _split(value)) and parts[1] in _DURATION_S and parts[0] > 0:
        return parts[0] * _DURATION_S[parts[1]]
    raise ValueError(f'{value!r} is not a duration; write it like "250ms", "30s" or "5m"')


def parse_size_bytes(value: object) -> int:
    """Bytes of "512MiB", "1GiB", "64KB"; ValueError with an example otherwise."""
    if isinstance(value, str) and (parts := _split(value)) and parts[1] in _SIZE_BYTES and parts[0] > 0:
        return int(parts[0] * _SIZE_BYTES[parts[1]])
    raise ValueError(f'{value!r} is not a size; write it like "512MiB" or "1GiB"')


def parse_rate_per_s(value: object) -> float:
    """Events per second of "200/s" or "600/m"; ValueError with an example otherwise."""
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*([smh])\s*", value)):
        rate_per_s = float(match[1]) / _RATE_S[match[2]]
        if rate_per_s > 0:
            return rate_per_s
    raise ValueError(f'{value!r} is not a rate; write it like "200/s" or "600/m"')


def format_duration(seconds: float) -> str:
    """The shortest way a person would write it: "250 ms", "1.5 s", "3 min", "2 h"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (float("inf"), 3600, "h")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.3g} {unit}"
    raise AssertionError("unreachable")


def format_bytes(count: float) -> str:
    """"512 B", "79 MiB", "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
