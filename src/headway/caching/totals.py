"""What the processes of an app counted of a cache, put together: by function, and as ratios. Pure.

Each process leaves its counts on the server, for a few seconds, in a hash with fields `FUNCTION:COUNTER`; `*` stands
for the process as a whole. A counter of another version of Headway is added up like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

WHOLE = "*"
# How a call can have ended, besides a load of its own.
_ENDS = ("hits_near", "hits_shared", "waits", "stale")


def add_up(processes: Iterable[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """The counters of each function over all processes; fields that are none are passed over."""
    found: dict[str, dict[str, int]] = {}
    for fields in processes:
        for field, text in fields.items():
            function, colon, counter = field.rpartition(":")
            if colon and counter and text.lstrip("-").isdigit():
                counts = found.setdefault(function, {})
                counts[counter] = counts.get(counter, 0) + int(text)
    return dict(sorted(found.items()))


class Running:
    """Counters that only grow, from counts that end with their process.

    What a process counts after the last look, until it ends, is lost.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Mapping[str, str]] = {}
        self._total: Counter[tuple[str, str]] = Counter()

    def look(self, processes: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, int]]:
        """The counters of each function since the first look, given what each process tells now."""
        for place, fields in processes.items():
            before = add_up([self._seen.get(place, {})])
            for function, counts in add_up([fields]).items():
                for counter, count in counts.items():
                    was = before.get(function, {}).get(counter, 0)
                    # A process of the same number that began anew counts from nothing.
                    self._total[function, counter] += count - was if count >= was else count
        self._seen = dict(processes)
        found: dict[str, dict[str, int]] = {}
        for (function, counter), count in sorted(self._total.items()):
            found.setdefault(function, {})[counter] = count
        return found


def told(counts: Mapping[str, int]) -> dict[str, Any]:
    """One function for `--json`: its counters, and what follows from them."""
    calls = _calls(counts)
    hits = counts.get("hits_near", 0) + counts.get("hits_shared", 0)
    loads = counts.get("loads", 0)
    return {
        **counts,
        "calls": calls,
        "hit_ratio": _ratio(hits, calls),
        "near_ratio": _ratio(counts.get("hits_near", 0), calls),
        "load_ms": round(counts.get("load_ms_sum", 0) / loads, 1) if loads else None,
    }


def overall(functions: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """All functions together."""
    total: dict[str, int] = {}
    for counts in functions.values():
        for counter, count in counts.items():
            total[counter] = total.get(counter, 0) + count
    return total


def _calls(counts: Mapping[str, int]) -> int:
    own = max(0, counts.get("loads", 0) - counts.get("refreshes", 0))  # nobody waited for a refresh
    return sum(counts.get(end, 0) for end in _ENDS) + own


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
