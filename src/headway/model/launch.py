"""How a service's replicas are started: the declaration of one service with every reference resolved."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SLOTS_MIN = 2048


def slots_for(limit: int | None) -> int:
    """Requests that a process is prepared to hold, in large steps.

    The limit itself is told to edge and worker while they run. Only one beyond what a process was started for needs
    another process, so that a limit can be tried out on replicas that serve.
    """
    return SLOTS_MIN if limit is None or limit <= SLOTS_MIN else int(2 ** (limit - 1).bit_length())


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything a replica's process is started with. `env` may hold secrets: it is never stored or shown.

    `generation` counts reloads of the source, so that a replica started before one has another key.
    `limit` is what the process is prepared to hold (`slots_for`), not how much it is sent.
    """

    service: str
    kind: Literal["app", "command"]
    folder: str
    env: dict[str, str] = field(default_factory=dict)
    python: str = ""
    target: str = ""
    interface: str = "auto"
    threads: int = 8
    static: dict[str, str] = field(default_factory=dict)
    responses: tuple[dict[str, Any], ...] = ()  # paths whose responses are kept, as the worker is told of them
    body_max_bytes: int = 2**30
    streams_max: int = 1000
    cancels: tuple[int, ...] = ()  # classes of requests whose work is cancelled when nobody waits for it
    limit: int = 1
    backlog: int = 1024
    command: tuple[str, ...] = ()
    health: str | None = None
    generation: int = 0

    @property
    def key(self) -> str:
        """A short name for all of it; two launches with the same key start the same process."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
