"""What a controller must know again after it died: the applied declaration, overrides, its replicas.

The declaration is stored as applied, not read again from the file: a half-edited file must not reach a running system.

Most commands read something here, and few of them the declaration itself; so what takes long to import (the model of
the declaration, the rules of overload) is imported where it is used.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.control.adapting import Adapted
    from headway.model.declared import Database, System
    from headway.model.hold import Hold
    from headway.model.replica import Replica


@dataclass(frozen=True, slots=True)
class Applied:
    """A declaration in force: where it came from, and how many times its source was reloaded."""

    system: System
    root: str
    source: str
    generation: int = 0
    staged: frozenset[str] = frozenset()  # services that start before the edge is to know them; never stored


@dataclass(frozen=True, slots=True)
class Override:
    """`scale` by hand: holds until the declaration says another number, or another range, than it did then."""

    replicas: int
    declared: int | str


def in_force(overrides: Mapping[str, Override], declared: Mapping[str, int | str]) -> dict[str, Override]:
    """Those that still hold: a declaration that says another number than when one was made has the last word."""
    return {name: entry for name, entry in overrides.items() if declared.get(name) == entry.declared}


Servers = int | dict[str, str] | None


@dataclass(frozen=True, slots=True)
class ServersByHand:
    """Servers of a database added or taken out by hand, as they would be declared; holds as an `Override` does."""

    servers: Servers
    declared: Servers


def servers_in_force(by_hand: Mapping[str, ServersByHand], system: System) -> dict[str, ServersByHand]:
    """Those that still hold: where the declaration says others than when they were made, it has the last word."""
    return {
        name: entry
        for name, entry in by_hand.items()
        if (declared := system.databases.get(name)) is not None
        and declared.shards is not None
        and declared.servers == entry.declared
    }


def with_servers(database: Database, by_hand: ServersByHand | None) -> Database:
    """A database with the servers that it has by hand."""
    return database if by_hand is None else database.model_copy(update={"servers": by_hand.servers})


@dataclass(frozen=True, slots=True)
class Departure:
    """A server that was asked to leave its database: kept until it has left, or is to stay after all."""

    server: str
    after_move: int  # its shards move by later ones
    process: str = ""  # of an embedded server
    data_folder: str = ""


@dataclass(slots=True)
class Store:
    """Reads and writes the small files of the state folder and of the run folder."""

    state: Path
    run: Path
    _stored: dict[str, str] = field(default_factory=dict, repr=False)  # what each file of the run folder holds

    def load_applied(self) -> Applied | None:
        """The declaration applied last; None at the first start, or when another version of Headway wrote it."""
        from pydantic import ValidationError

        from headway.model.declared import System

        data = _read(self.state / "applied.json")
        try:
            return Applied(System.model_validate(data["system"]), data["root"], data["source"], data["generation"])
        except (ValidationError, KeyError, TypeError):
            return None

    def name(self) -> str | None:
        """The name of the system applied last; None where none is known."""
        try:
            return str(_read(self.state / "applied.json")["system"]["name"])
        except (KeyError, TypeError):
            return None

    def save_applied(self, applied: Applied) -> None:
        """Store a declaration that is in force."""
        _write(
            self.state / "applied.json",
            {
                "system": applied.system.model_dump(mode="json"),
                "root": applied.root,
                "source": applied.source,
                "generation": applied.generation,
            },
        )

    def load_overrides(self) -> dict[str, Override]:
        """Overrides by service."""
        return {name: Override(**entry) for name, entry in (_read(self.state / "overrides.json") or {}).items()}

    def save_overrides(self, overrides: Mapping[str, Override]) -> None:
        """Store all overrides."""
        _write(self.state / "overrides.json", {name: asdict(entry) for name, entry in overrides.items()})

    def load_servers(self) -> dict[str, ServersByHand]:
        """Servers by hand, by database."""
        try:
            return {name: ServersByHand(**entry) for name, entry in (_read(self.state / "servers.json") or {}).items()}
        except (AttributeError, TypeError):
            return {}

    def save_servers(self, by_hand: Mapping[str, ServersByHand]) -> None:
        """Store all servers by hand."""
        _write(self.state / "servers.json", {name: asdict(entry) for name, entry in by_hand.items()})

    def load_departures(self) -> dict[str, Departure]:
        """Servers that are leaving, by database."""
        try:
            return {name: Departure(**entry) for name, entry in (_read(self.state / "departures.json") or {}).items()}
        except (AttributeError, TypeError):
            return {}

    def save_departures(self, departures: Mapping[str, Departure]) -> bool:
        """Store them all; whether they could be."""
        data = {name: asdict(entry) for name, entry in departures.items()}
        return _write_text(self.state / "departures.json", json.dumps(data, indent=1))

    def load_holds(self) -> dict[str, Hold]:
        """Holds by service."""
        from headway.model.hold import Hold

        try:
            return {name: Hold(**entry) for name, entry in (_read(self.state / "holds.json") or {}).items()}
        except (AttributeError, TypeError):
            return {}

    def save_holds(self, holds: Mapping[str, Hold]) -> None:
        """Store all holds."""
        _write(self.state / "holds.json", {name: asdict(hold) for name, hold in holds.items()})

    def load_replicas(self) -> dict[str, Replica]:
        """The replicas a controller that died looked after."""
        from headway.model.observed import Failure
        from headway.model.replica import Phase, Replica

        found = {}
        for entry in _read(self.run / "replicas.json") or []:
            failure = Failure(**entry.pop("failure")) if entry.get("failure") else None
            entry.pop("failure", None)
            replica = Replica(**{**entry, "phase": Phase(entry["phase"]), "failure": failure})
            found[replica.name] = replica
        return found

    def save_replicas(self, replicas: Mapping[str, Replica]) -> None:
        """Store them when they changed."""
        self._keep("replicas.json", json.dumps([asdict(replica) for replica in replicas.values()]))

    def load_scaled(self) -> dict[str, int]:
        """Numbers of replicas that follow the load, by service, as the controller that died had them."""
        data = _read(self.run / "scaled.json")
        if not isinstance(data, dict):
            return {}
        return {name: count for name, count in data.items() if isinstance(count, int) and count > 0}

    def save_scaled(self, scaled: Mapping[str, int]) -> None:
        """Store them when one changed."""
        self._keep("scaled.json", json.dumps(scaled))

    def load_overload(self) -> Adapted:
        """What a controller that died had learned of overload; limits are read from the edge itself."""
        from headway.control.adapting import Adapted
        from headway.model.overload import QueueBound
        from headway.overload import queueing

        data = _read(self.run / "overload.json")
        try:
            bounds = {(service, number): QueueBound(**bound) for service, number, bound, *_ in data["queues"]}
            queues = {
                (service, number): queueing.Queue(bounds[service, number], rate_per_s, service_s)
                for service, number, _bound, rate_per_s, service_s in data["queues"]
            }
            slow = {service: frozenset(prefixes) for service, prefixes in data["slow"].items()}
        except (KeyError, TypeError, ValueError):
            return Adapted()
        return Adapted(in_force=bounds, queues=queues, slow=slow)

    def save_overload(self, adapted: Adapted) -> None:
        """Store what it has learned, when it changed."""
        queues = [
            (service, number, asdict(bound), round(queue.rate_per_s, 1), round(queue.service_s, 4))
            for (service, number), bound in adapted.in_force.items()
            if (queue := adapted.queues.get((service, number)))
        ]
        slow = {service: sorted(prefixes) for service, prefixes in adapted.slow.items()}
        self._keep("overload.json", json.dumps({"queues": queues, "slow": slow}))

    def _keep(self, name: str, text: str) -> None:
        """Write a file of the run folder when it changed; one that could not be written is tried again next time."""
        if text != self._stored.get(name) and _write_text(self.run / name, text):
            self._stored[name] = text


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _write(path: Path, data: Any) -> None:
    _write_text(path, json.dumps(data, indent=1))


def _write_text(path: Path, text: str) -> bool:
    """Whole or not at all: a full disk leaves the old file (False), and the system runs on."""
    fresh = path.with_name(path.name + ".new")
    with contextlib.suppress(OSError):
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            file.write(text)
        os.replace(fresh, path)
        return True
    return False
