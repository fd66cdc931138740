"""The nouns of overload: request classes, criticality, what a worker measures of each class, and a queue's bound.

A *class* is a set of routes of one service that share a concurrency limit and a queue of their own over the same
workers: 0 = everything else, 1 = routes that were learned to be slow, 2 and up = those declared under `at`, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Criticality = Literal["critical_plus", "critical", "sheddable_plus", "sheddable"]

# The four levels of Google's SRE book (chapter 21), the most important first; a level is an index into this.
CRITICALITIES: tuple[Criticality, ...] = ("critical_plus", "critical", "sheddable_plus", "sheddable")
DEFAULT_LEVEL = 1

MAIN, SLOW, FIRST_AT = 0, 1, 2
CLASSES_MAX = 8  # of one service; the worker's telemetry has so many blocks

# Bucket i of a service-time histogram counts requests of [2**(i-1), 2**i) x 1.024 microseconds; bucket 0 what is below.
HISTOGRAM_BUCKETS = 32
HISTOGRAM_UNIT_S = 1.024e-6


def class_name(service: str, number: int) -> str:
    """The name of a class, in the edge's file, in the journal and in `status`: "web", "web.slow", "web.at1"."""
    return service if number == MAIN else f"{service}.slow" if number == SLOW else f"{service}.at{number - 1}"


def class_of(name: str) -> tuple[str, int]:
    """`class_name` the other way round. ValueError when it is none."""
    service, dot, ending = name.partition(".")
    if not dot:
        return service, MAIN
    if ending == "slow":
        return service, SLOW
    if ending.startswith("at") and ending[2:].isdecimal():
        return service, int(ending[2:]) + 1
    raise ValueError(f"{name!r} names no class of requests")


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """What a worker has counted of one class since its start; only answers below 500 count as completed."""

    completed: int = 0
    failed: int = 0  # the app raised, or answered 5xx
    service_s: float = 0.0  # sum of the service times of the completed, from the worker's first byte to its last
    in_flight: int = 0
    dropped: int = 0  # never run: past their deadline
    refused: int = 0  # by the worker's own hard cap
    histogram: tuple[int, ...] = ()  # service times of the completed, HISTOGRAM_BUCKETS counts
    cancelled: int = 0  # begun, and cancelled because nobody waited any more


@dataclass(frozen=True, slots=True)
class RouteCounts:
    """What a worker has sampled of one route: a path's first part, `/reports` of `/reports/7/lines`."""

    prefix: str
    samples: int
    service_s: float  # sum over the samples


@dataclass(frozen=True, slots=True)
class Counts:
    """One reading of a worker's counters; all of one moment, `at_s` on the machine's monotonic clock."""

    at_s: float
    lag_s: float  # how late the event loop was, at most, in the last tenth of a second; WSGI: 0
    classes: tuple[ClassCounts, ...]
    routes: tuple[RouteCounts, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueBound:
    """What the edge is to do with the queue of one class."""

    queue_max: int  # requests that may wait, over all replicas; above it 503 at once
    overloaded: bool = False  # order by criticality strictly, and be fair between clients
    newest_first: bool = False
    floor_per_s: int = 0  # of the less critical, so many a second go before the critical; 0 = none
    client_per_s: int = 0  # a client address above this rate is refused first; 0 = no such bound


@dataclass(frozen=True, slots=True)
class EdgeQueue:
    """The queue of one class as the edge has it; counters grow from the edge's start."""

    queued: int = 0
    in_flight: int = 0
    requests: int = 0
    refused: int = 0  # by the queue's bound or fairness, 503; in observe mode: what would have been
    clients: int = 0  # addresses of the last seconds, counted while `QueueBound.overloaded`; no counter
