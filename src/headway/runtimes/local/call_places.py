"""Where the services of this machine are called: a unix socket each, and a port of loopback for clients by URL.

The names of sockets follow from those of services. A port is chosen once, when an environment first refers to it, and
kept for as long as the run folder is: what a process was told stays true.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from headway.declaration.calls import by_url, called_by, callers
from headway.errors import MachineError
from headway.model.calls import CALLS_MAX
from headway.model.declared import System
from headway.process.folders import Folders

_HOST = "127.0.0.1"


class CallPlaces:
    """The places of one system's services."""

    def __init__(self, folders: Folders) -> None:
        self._folder = folders.calls
        self._path = folders.ports
        self._ports = _read(self._path)
        self._fields: tuple[System, dict[str, dict[str, str]]] | None = None

    def addresses(self, system: System) -> dict[str, tuple[str, ...]]:
        """By service that is called, where: its socket's path, and `host:port` where somebody knows it by URL."""
        urls = set(by_url(system))
        return {
            name: (self.socket(name), *((f"{_HOST}:{self._port(name)}",) if name in urls else ()))
            for name in callers(system)
        }

    def socket(self, service: str) -> str:
        """Path of the socket at which a service is called."""
        return str(self._folder / f"{service}.sock")

    def fields(self, system: System) -> dict[str, dict[str, str]]:
        """What references in an environment can name: `{inventory.url}`."""
        if self._fields is None or self._fields[0] is not system:
            self._fields = system, {name: {"url": f"http://{_HOST}:{self._port(name)}"} for name in by_url(system)}
        return self._fields[1]

    def told(self, system: System, name: str) -> dict[str, dict[str, object]]:
        """What processes of a service are told of those that it calls."""
        most = system.services[name].calls_max
        # The usual bound goes without saying: what an earlier version started is told the same, and runs on.
        bound: dict[str, object] = {} if most == CALLS_MAX else {"calls_max": most}
        return {
            other: {"socket": self.socket(other), "deadline_s": system.services[other].deadline_s, **bound}
            for other in called_by(system, name)
        }

    def told_to_all(self, system: System) -> dict[str, dict[str, dict[str, object]]]:
        """The same, by the service that calls."""
        return {name: told for name in system.services if (told := self.told(system, name))}

    def choose_again(self, address: str) -> str | None:
        """Another address instead of one that somebody took before we listened; None when it was not our choice."""
        for name, port in list(self._ports.items()):
            if address == f"{_HOST}:{port}":
                del self._ports[name]
                self._fields = None
                return f"{_HOST}:{self._port(name)}"
        return None

    def _port(self, service: str) -> int:
        if service not in self._ports:
            self._ports[service] = _free_port(self._ports.values())
            self._store()
        return self._ports[service]

    def _store(self) -> None:
        """Whole or not at all; where it cannot be, the next controller chooses anew, and replicas follow."""
        fresh = self._path.with_name(self._path.name + ".new")
        with contextlib.suppress(OSError):
            fresh.write_text(json.dumps(self._ports, sort_keys=True) + "\n")
            fresh.replace(self._path)


def _free_port(taken: Iterable[int]) -> int:
    """One that nobody listens on now: the kernel's choice."""
    held = set(taken)
    for _ in range(100):
        with socket.socket() as trial:
            trial.bind((_HOST, 0))
            port = int(trial.getsockname()[1])
        if port not in held:
            return port
    raise MachineError("no port of 127.0.0.1 is free for calls by URL", hint="headway doctor")


def _read(path: Path) -> dict[str, int]:
    try:
        data: Any = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    known: Mapping[str, Any] = data if isinstance(data, dict) else {}
    return {name: port for name, port in known.items() if isinstance(port, int) and 0 < port < 65536}
