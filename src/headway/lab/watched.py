"""What the system did while it was loaded: limits, queue and requests in flight, as its controller tells them.

Answers alone do not say why a system refused or was late. Beside them one sees whether a limit moved, a queue grew, or
a replica came and went. Looking costs a question each half second, and is never a reason for a load to fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from headway.control.client import ControlClient
from headway.errors import HeadwayError
from headway.lab.target import Target, parse_target

EVERY_S = 0.5
_ASK_TIMEOUT_S = 2.0
# Above this every second sample goes, and half as many are taken from then on: a load of any length has a few hundred.
SAMPLES_MAX = 1200
_HERE = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"})


@dataclass(frozen=True, slots=True)
class ReplicaSample:
    """A replica at one moment. No limit: the edge does not have it, or lets everything through."""

    limit: int | None
    in_flight: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The system at `at_s` of the load; replicas by name."""

    at_s: float
    replicas: Mapping[str, ReplicaSample]
    queued: int | None


def sample_of(document: Mapping[str, Any], at_s: float) -> Sample:
    """What the status document says of it."""
    replicas = {
        replica["name"]: ReplicaSample(replica.get("limit"), replica.get("in_flight") or 0)
        for service in document.get("services", {}).values()
        for replica in service.get("replicas", ())
    }
    return Sample(at_s, replicas, document.get("traffic", {}).get("queued"))


def is_edge_of(document: Mapping[str, Any], target: Target) -> bool:
    """Whether a load on `target` goes through the edge of the system that the document is about."""
    told = document.get("edge", {})
    found = [parse_target(url) for url in told.get("urls") or [told.get("url")] if url]
    return target.socket_path is None and any(
        edge.port == target.port and (edge.host == target.host or {edge.host, target.host} <= _HERE) for edge in found
    )


class Watch:
    """Samples a running system from entering the block until leaving it, in a thread of its own."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client
        self._every_s = EVERY_S
        self._samples: list[Sample] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What was seen; moments without an answer are missing."""
        return tuple(self._samples)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(_ASK_TIMEOUT_S + EVERY_S)

    def _run(self) -> None:
        began_s = time.monotonic()
        while True:
            try:
                document = self._client.ask("GET", "/status", timeout_s=_ASK_TIMEOUT_S)
            except (HeadwayError, OSError, ValueError):
                document = None  # its controller may be the very thing that was killed; a gap in the plot says so
            if document is not None:
                self._samples.append(sample_of(document, time.monotonic() - began_s))
            if len(self._samples) >= SAMPLES_MAX:
                self._samples, self._every_s = self._samples[::2], self._every_s * 2
            if self._over.wait(self._every_s):
                return
