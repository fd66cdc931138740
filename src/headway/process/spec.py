"""What a long-lived process is, as data: how to start it, whom to give what, how to end it."""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass, field
from typing import Any

FIRST_LISTENER_FD = 200  # listeners are handed on under fixed numbers, so that a text can name them (`bind fd@200`)
FORMER_CONTROLLER = "HEADWAY_FORMER_CONTROLLER"  # in a controller's environment: why the one before it was replaced


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process the supervisor starts. `env` is the whole environment; it is never written to disk.

    `listeners`: addresses of listening sockets the child gets as descriptors FIRST_LISTENER_FD, +1, …
    `restart`: the supervisor starts it again by itself when it ends (engines and the controller).
    `stop_signal`, `stop_timeout_s`: how to end it; SIGKILL follows.
    `replace_argv`: what goes before the pid of a running one that this one takes over from, hitlessly (`-sf PID`).
    `keep`: an engine whose spec may be stored for adoption; it holds no secret.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    uid: int | None = None
    gid: int | None = None
    stdout: str = "/dev/null"
    stderr: str = "/dev/null"
    listeners: tuple[str, ...] = ()
    restart: bool = False
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = 5.0
    death_signal: int = signal.SIGKILL
    keep: bool = False
    replace_argv: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ProcessSpec:
        """The spec that `to_json` wrote."""
        fields = dict(data)
        fields["argv"] = tuple(fields["argv"])
        fields["replace_argv"] = tuple(fields.get("replace_argv", ()))
        fields["listeners"] = tuple(fields.get("listeners", ()))
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A process the supervisor knows: alive, or how it ended (`status`: exit code, or minus the signal)."""

    name: str
    pid: int
    ticks: int
    alive: bool
    status: int | None = None
    restarts: int = 0
