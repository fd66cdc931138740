"""Changes a running HAProxy without a reload: a small client of its stats socket.

Each batch of commands has a connection of its own, which HAProxy closes after the last answer: that costs about 30 µs
more than a lasting connection and leaves nothing to resynchronise after a timeout. Blocking and bounded: HAProxy
answers in well under a millisecond unless it is stopped, and then `timeout_s` ends the wait with EdgeUnreachable.

A replica is known in each class of its service by itself: `service` is the name of the class's backend ("web" for the
main one, "web.slow", "web.at1") wherever one of them is meant, and `classes` lists those beside the main one where all
are.

Of one replica's life: `add` (it takes nothing yet) → `enable` → `drain` (nothing new; what it has goes on) → `remove`,
repeated until it says `removed`. `maint` cuts what the replica has in flight, because it counts as marked down.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headway.edge.errors import EdgeRefused, EdgeUnreachable
from headway.edge.observed import EdgeObserved, EdgeProcess, EdgeServerState, read_info, read_stat
from headway.edge.queues import REFUSED, level_variable, variables
from headway.edge.routes import learned_key
from headway.edge.servers import draining_file, learned_file, server_line
from headway.model.edge import EdgeReplica
from headway.model.overload import MAIN, QueueBound, class_of

Removal = Literal["removed", "absent", "busy"]

_ANSWER_MAX_BYTES = 16 * 2**20
# Answers of `add acl` and `del acl` for a replica that was not draining, and where no service is sticky.
_HARMLESS = ("Key not found.", "Unknown ACL identifier. Please use #<id> or <file>.")
# Answers where a class does not have a replica, or is gone since the last reload.
_ABSENT = ("No such server.", "No such backend.")


@dataclass(frozen=True, slots=True)
class RuntimeApi:
    """HAProxy's run-time API at `path`, the socket that the configuration names."""

    path: str
    timeout_s: float = 1.0

    def add(self, service: str, replica: EdgeReplica, *, sticky: bool = False) -> None:
        """Make a replica known; it takes requests at once if `replica.enabled`, else after `enable`."""
        watched = server_line(replica, sticky=sticky, main=class_of(service)[1] == MAIN)
        command = f"add server {service}/{replica.name} {watched}"
        answer = self._exchange(command)
        if answer != "New server registered.":
            raise EdgeRefused(command, answer)
        if replica.enabled:
            self.enable(service, replica.name)

    def enable(self, service: str, name: str) -> None:
        """Let a replica take requests; it counts as alive until its first check says otherwise."""
        server = f"{service}/{name}"
        self._quietly(self._undrain(name), f"enable health {server}", f"set server {server} state ready")

    def drain(self, service: str, name: str, classes: Sequence[str] = ()) -> None:
        """Send nothing new to a replica, not even its own sticky clients; what it has in flight goes on."""
        self._wherever(f"set server {{}}/{name} state drain", classes)
        self._quietly(f"add acl {self._draining} {name}", f"set server {service}/{name} state drain")

    def maint(self, service: str, name: str, classes: Sequence[str] = ()) -> None:
        """Take a replica out at once. What it has in flight is cut (and repeated elsewhere where that is harmless)."""
        self._wherever(f"set server {{}}/{name} state maint", classes)
        self._quietly(f"set server {service}/{name} state maint")

    def set_limit(self, service: str, name: str, limit: int) -> None:
        """How many requests a replica may have in flight; at least one, since HAProxy takes zero for no limit."""
        self._quietly(f"set maxconn server {service}/{name} {max(1, limit)}")

    def set_limits(self, limits: Sequence[tuple[str, str, int]]) -> None:
        """`set_limit` for several (service, name, limit), a hundred in a round trip; an unknown one stops no other."""
        for start in range(0, len(limits), 100):
            batch = limits[start : start + 100]
            self._quietly(*(f"set maxconn server {service}/{name} {max(1, limit)}" for service, name, limit in batch))

    def remove(self, service: str, name: str, classes: Sequence[str] = ()) -> Removal:
        """Forget a replica; whatever it had in flight is cut, so drain it first.

        `busy`: connections to it are not closed yet; stop the replica and ask again. HAProxy also closes idle
        connections by itself a few seconds after the replica went out.
        """
        self._wherever(f"set server {{}}/{name} state maint", classes)
        self._exchange(f"set server {service}/{name} state maint; {self._undrain(name)}")
        told = [self._delete(f"{backend}/{name}") for backend in (*classes, service)]
        return "busy" if "busy" in told else "removed" if "removed" in told else "absent"

    def _delete(self, server: str) -> Removal:
        answer = self._exchange(f"del server {server}")
        if answer == "Server deleted.":
            return "removed"
        if answer.startswith("No such"):
            return "absent"
        if "connection" in answer or "session" in answer:
            return "busy"
        raise EdgeRefused(f"del server {server}", answer)

    def shutdown_sessions(self, service: str, name: str) -> None:
        """Cut everything a replica has in flight, streams and WebSockets included."""
        self._quietly(f"shutdown sessions server {service}/{name}")

    def bound(self, service: str, number: int, bound: QueueBound) -> None:
        """What is done with the queue of a class from now on; all of it in one round trip. A restart forgets it."""
        values = variables(service, number, bound)
        if not bound.overloaded:
            values[level_variable(service, number)] = 0  # the next overload may be of other clients
        self._quietly("experimental-mode on", *(f"set var {name} int({value})" for name, value in values.items()))

    def assign(self, service: str, prefix: str) -> None:
        """Let requests below `prefix` queue in the class of slow routes; a restart reads the list's file again."""
        entry = f"{learned_file(self._folder, service)} {learned_key(prefix)}"
        self._quietly(f"del acl {entry}", f"add acl {entry}")  # the same entry twice would be kept twice

    def unassign(self, service: str, prefix: str) -> None:
        """Let requests below `prefix` queue with all others again."""
        self._quietly(f"del acl {learned_file(self._folder, service)} {learned_key(prefix)}")

    def assign_only(self, service: str, keys: Sequence[str]) -> None:
        """Let requests below these prefixes, and no others, queue in the class of slow routes."""
        path = learned_file(self._folder, service)
        self._quietly(f"clear acl {path}", *(f"add acl {path} {key}" for key in keys))

    def observe(self) -> EdgeObserved:
        """Replicas, classes and totals in one round trip; made to be called ten times a second."""
        text = self._exchange(f"show stat -1 7 -1; show table; show table {REFUSED}")
        try:
            return read_stat(text)
        except ValueError as error:
            raise EdgeRefused("show stat", str(error)) from error

    def replicas(self, service: str | None = None) -> tuple[EdgeServerState, ...]:
        """The replicas HAProxy knows, of one class or of all main ones."""
        wanted = None if service is None else class_of(service)
        return tuple(
            state
            for state in self.observe().replicas
            if (state.number == MAIN if wanted is None else (state.service, state.number) == wanted)
        )

    def process(self) -> EdgeProcess:
        """Which process answers: after a reload the new one does."""
        text = self._exchange("show info")
        try:
            return read_info(text)
        except ValueError as error:
            raise EdgeRefused("show info", str(error)) from error

    def swap_certificate(self, path: str, pem: str) -> None:
        """Serve `pem` (chain and key) from now on, in place of the certificate loaded from `path`; connections stay."""
        lines = "\n".join(line for line in pem.splitlines() if line.strip())
        answer = self._exchange(f"set ssl cert {path} <<\n{lines}\n")
        if not answer.startswith("Transaction"):
            self._exchange(f"abort ssl cert {path}")
            raise EdgeRefused(f"set ssl cert {path}", answer)
        answer = self._exchange(f"commit ssl cert {path}")
        if "Success!" not in answer:
            self._exchange(f"abort ssl cert {path}")
            raise EdgeRefused(f"commit ssl cert {path}", answer)

    @property
    def _folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def _draining(self) -> str:
        return draining_file(self._folder)

    def _undrain(self, name: str) -> str:
        return f"del acl {self._draining} {name}"

    def _quietly(self, *commands: str) -> None:
        """Send commands that answer nothing when they are obeyed. EdgeRefused with the first objection otherwise."""
        batch = "; ".join(commands)
        for line in self._exchange(batch).splitlines():
            if line.strip() and line not in _HARMLESS:
                raise EdgeRefused(batch, line)

    def _wherever(self, command: str, classes: Sequence[str]) -> None:
        """Send a command for each of the classes, of which some may not have the replica that it names."""
        if not classes:
            return
        batch = "; ".join(command.format(backend) for backend in classes)
        for line in self._exchange(batch).splitlines():
            if line.strip() and line not in _ABSENT:
                raise EdgeRefused(batch, line)

    def _exchange(self, command: str) -> str:
        data = bytearray()
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
            connection.settimeout(self.timeout_s)
            try:
                connection.connect(self.path)
                connection.sendall(command.encode() + b"\n")
                while chunk := connection.recv(65536):
                    data += chunk
                    if len(data) > _ANSWER_MAX_BYTES:
                        raise EdgeRefused(command.split("\n")[0], "the answer has no end")
            except OSError as error:
                reason = (
                    "it did not answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
                )
                raise EdgeUnreachable(
                    f"HAProxy cannot be reached at {self.path}: {reason}", hint="headway status shows whether it runs"
                ) from error
        return data.decode(errors="replace").strip()
