"""How a service's replicas are started: the declaration of one service with every reference resolved."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything a replica's process is started with. `env` may hold secrets: it is never stored or shown.

    `generation` counts reloads of the source, so that a replica started before one has another key.
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
    body_max_bytes: int = 2**30
    streams_max: int = 1000
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
