"""Changes a running HAProxy without a reload: a small client of its stats socket.

Each batch of commands has a connection of its own, which HAProxy closes after the last answer: that costs about 30 µs
more than a lasting connection and leaves nothing to resynchronise after a timeout. Blocking and bounded: HAProxy
answers in well under a millisecond unless it is stopped, and then `timeout_s` ends the wait with EdgeUnreachable.

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
from headway.edge.servers import draining_file, server_line
from headway.model.edge import EdgeReplica

Removal = Literal["removed", "absent", "busy"]

_ANSWER_MAX_BYTES = 16 * 2**20
# Answers of `add acl` and `del acl` for a replica that was not draining, and where no service is sticky.
_HARMLESS = ("Key not found.", "Unknown ACL identifier. Please use #<id> or <file>.")


@dataclass(frozen=True, slots=True)
class RuntimeApi:
    """HAProxy's run-time API at `path`, the socket that the configuration names."""

    path: str
    timeout_s: float = 1.0

    def add(self, service: str, replica: EdgeReplica, *, sticky: bool = False) -> None:
        """Make a replica known; it takes requests at once if `replica.enabled`, else after `enable`."""
        command = f"add server {service}/{replica.name} {server_line(replica, sticky=sticky)}"
        answer = self._exchange(command)
        if answer != "New server registered.":
            raise EdgeRefused(command, answer)
        if replica.enabled:
            self.enable(service, replica.name)

    def enable(self, service: str, name: str) -> None:
        """Let a replica take requests; it counts as alive until its first check says otherwise."""
        server = f"{service}/{name}"
        self._quietly(self._undrain(name), f"enable health {server}", f"set server {server} state ready")

    def drain(self, service: str, name: str) -> None:
        """Send nothing new to a replica, not even its own sticky clients; what it has in flight goes on."""
        self._quietly(f"add acl {self._draining} {name}", f"set server {service}/{name} state drain")

    def maint(self, service: str, name: str) -> None:
        """Take a replica out at once. What it has in flight is cut (and repeated elsewhere where that is harmless)."""
        self._quietly(f"set server {service}/{name} state maint")

    def set_limit(self, service: str, name: str, limit: int) -> None:
        """How many requests a replica may have in flight; at least one, since HAProxy takes zero for no limit."""
        self._quietly(f"set maxconn server {service}/{name} {max(1, limit)}")

    def set_limits(self, limits: Sequence[tuple[str, str, int]]) -> None:
        """`set_limit` for several (service, name, limit), a hundred in a round trip; an unknown one stops no other."""
        for start in range(0, len(limits), 100):
            batch = limits[start : start + 100]
            self._quietly(*(f"set maxconn server {service}/{name} {max(1, limit)}" for service, name, limit in batch))

    def remove(self, service: str, name: str) -> Removal:
        """Forget a replica; whatever it had in flight is cut, so drain it first.

        `busy`: connections to it are not closed yet; stop the replica and ask again. HAProxy also closes idle
        connections by itself a few seconds after the replica went out.
        """
        server = f"{service}/{name}"
        self._exchange(f"set server {server} state maint; {self._undrain(name)}")
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

    def observe(self) -> EdgeObserved:
        """Replicas, services and totals in one round trip; made to be called ten times a second."""
        text = self._exchange("show stat -1 7 -1")
        try:
            return read_stat(text)
        except ValueError as error:
            raise EdgeRefused("show stat", str(error)) from error

    def replicas(self, service: str | None = None) -> tuple[EdgeServerState, ...]:
        """The replicas HAProxy knows, of one service or of all."""
        known = self.observe().replicas
        return known if service is None else tuple(state for state in known if state.service == service)

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
    def _draining(self) -> str:
        return draining_file(self.path.rpartition("/")[0])

    def _undrain(self, name: str) -> str:
        return f"del acl {self._draining} {name}"

    def _quietly(self, *commands: str) -> None:
        """Send commands that answer nothing when they are obeyed. EdgeRefused with the first objection otherwise."""
        batch = "; ".join(commands)
        for line in self._exchange(batch).splitlines():
            if line.strip() and line not in _HARMLESS:
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
