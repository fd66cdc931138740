"""What the processes of a service counted of the services that they call, put together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

COUNTERS = ("calls", "attempts", "retries", "refused", "failed", "deadline", "turned_away")
_LEVELS = ("in_flight", "bound", "bound_max")  # of now: they end with their process
_STATES = ("closed", "half-open", "open")  # the worst of the processes' counts


def add_up(processes: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """By service and the service it calls: the counts of all processes that tell."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for process in processes:
        service, targets = process.get("service"), process.get("targets")
        if not isinstance(service, str) or not isinstance(targets, Mapping):
            continue
        for name, told in targets.items():
            if isinstance(told, Mapping):
                _add(found.setdefault(service, {}).setdefault(name, _none()), told)
    return {service: dict(sorted(targets.items())) for service, targets in sorted(found.items())}


def _none() -> dict[str, Any]:
    return {**dict.fromkeys((*COUNTERS, *_LEVELS), 0), "breaker": "closed", "open_in": 0, "processes": 0}


def _add(total: dict[str, Any], told: Mapping[str, Any]) -> None:
    for counter in (*COUNTERS, *_LEVELS):
        value = told.get(counter, 0)
        total[counter] += value if isinstance(value, int) else 0
    state = told.get("breaker")
    if state in _STATES and state != "closed":
        total["open_in"] += 1
        total["breaker"] = max(total["breaker"], state, key=_STATES.index)
    total["processes"] += 1


class Running:
    """Counters that only grow, from counts that end with their process. What it counts after the last look is lost."""

    def __init__(self) -> None:
        self._seen: dict[str, Mapping[str, Any]] = {}
        self._total: dict[tuple[str, str], dict[str, int]] = {}

    def look(self, processes: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, int]]:
        """The counters since the first look, by service and the one it calls, given what each process tells now."""
        for place, process in processes.items():
            before = add_up([self._seen.get(place, {})])
            for service, targets in add_up([process]).items():
                for name, counts in targets.items():
                    was = before.get(service, {}).get(name, {})
                    total = self._total.setdefault((service, name), dict.fromkeys(COUNTERS, 0))
                    for counter in COUNTERS:
                        count, seen = counts[counter], was.get(counter, 0)
                        total[counter] += count - seen if count >= seen else count
        self._seen = dict(processes)
        return self._total
