"""The controller's side of the conversation with the supervisor: requests, events, duplicates of listening sockets."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from typing import Any

from headway.errors import HeadwayError, MachineError
from headway.process.spec import ProcessSpec, ProcessState
from headway.process.wire import Wire, WireClosed, connect

_ANSWER_S = 5.0
_SILENT_S = 15.0  # nothing heard for so long after the caller's loop told that it turns


class SupervisorGone(HeadwayError):
    """The supervisor does not answer; what runs goes on, nothing can be started until the next `headway up`."""

    def __init__(self) -> None:
        super().__init__("the supervisor is gone", hint="headway up --detach starts one that adopts what runs")


class SupervisorSilent(HeadwayError):
    """The supervisor lives and does not answer: stopped, or starved of processor or disk."""

    def __init__(self) -> None:
        super().__init__(
            "the supervisor does not answer",
            hint="headway down ends it; a detached one is replaced by: headway up --detach",
        )


class SupervisorClient:
    """Asks the supervisor to start and signal processes. Safe to use from several threads.

    `listeners` holds duplicates of the listening sockets by address; they are handed to the next supervisor when this
    one is gone, so that no connection is refused meanwhile.
    """

    def __init__(self, path: str, patience_s: float = _ANSWER_S) -> None:
        self._path, self._patience_s = path, patience_s
        self._lock = threading.RLock()
        self._wire: Wire | None = None
        self._next = 0
        self._waits_since_s: float | None = None  # for a sign of life
        self.events: deque[dict[str, Any]] = deque(maxlen=10_000)
        self.listeners: dict[str, int] = {}

    def connect(self) -> None:
        """Connect, and hand the listening sockets over; SupervisorGone when nobody is there."""
        with self._lock:
            try:
                self._wire = connect(self._path, 0.5)
            except OSError as error:
                raise SupervisorGone from error
            self._waits_since_s = None
            if self.listeners:
                try:
                    self._ask({"do": "hand over", "addresses": list(self.listeners)}, list(self.listeners.values()))
                except SupervisorSilent:
                    self._drop()
                    raise SupervisorGone from None

    @property
    def connected(self) -> bool:
        return self._wire is not None

    @property
    def state(self) -> str:
        """`ready`; `silent` when it does not answer; `gone`."""
        return ("silent" if self.is_silent else "ready") if self.connected else "gone"

    @property
    def is_silent(self) -> bool:
        """Whether it lives, and has not been heard of for too long. What it is asked then is refused at once."""
        since_s = self._waits_since_s
        return self.connected and since_s is not None and time.monotonic() - since_s > _SILENT_S

    def poll(self) -> list[dict[str, Any]]:
        """Events that arrived since the last call; never waits. SupervisorGone once when the connection is lost."""
        with self._lock:
            if self._wire:
                self._wire.sock.setblocking(False)
                try:
                    while messages := self._wire.receive():
                        self._waits_since_s = None
                        for message, given in messages:
                            self._put_by(message, given)
                except WireClosed as error:
                    self._drop()
                    raise SupervisorGone from error
            found = list(self.events)
            self.events.clear()
            return found

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            self._drop()

    def _put_by(self, message: dict[str, Any], given: list[int]) -> None:
        """An event; or an answer that came when nobody waited for it any more."""
        self.events.append(message)
        for fd in given:
            os.close(fd)

    def _drop(self) -> None:
        if self._wire:
            self._wire.close()
            self._wire = None

    def _ask(self, request: dict[str, Any], fds: list[int] | None = None) -> tuple[dict[str, Any], list[int]]:
        with self._lock:
            if self._wire is None:
                raise SupervisorGone
            if self.is_silent:
                raise SupervisorSilent
            self._next += 1
            try:
                self._wire.sock.settimeout(self._patience_s)
                self._wire.send({"id": self._next, **request}, fds)
                until_s = time.monotonic() + self._patience_s
                while time.monotonic() < until_s:
                    found: tuple[dict[str, Any], list[int]] | None = None
                    for message, given in self._wire.receive():
                        self._waits_since_s = None
                        if message.get("reply") == self._next:
                            found = message, given
                        else:
                            self._put_by(message, given)
                    if found:
                        if "error" in found[0]:
                            raise MachineError(found[0]["error"], hint=found[0]["hint"])
                        return found
            except WireClosed as error:
                self._drop()
                raise SupervisorGone from error
            self._waits_since_s = time.monotonic() - 2 * _SILENT_S  # until it is heard of again
            raise SupervisorSilent

    def spawn(self, spec: ProcessSpec, *, replaces: bool = False) -> ProcessState:
        """Start a process; MachineError when it cannot be started."""
        answer, _ = self._ask({"do": "spawn", "spec": spec.to_json(), "replaces": replaces})
        return ProcessState(**answer["process"])

    def signal(self, name: str, number: int) -> bool:
        """Send a signal; False when the process is gone."""
        return bool(self._ask({"do": "signal", "name": name, "signal": number})[0]["sent"])

    def stop(self, name: str, number: int, timeout_s: float) -> bool:
        """Send `number`, SIGKILL after `timeout_s`, and do not restart it; False when it is gone."""
        return bool(self._ask({"do": "stop", "name": name, "signal": number, "timeout_s": timeout_s})[0]["sent"])

    def processes(self) -> dict[str, ProcessState]:
        """Everything the supervisor knows, by name."""
        answer, _ = self._ask({"do": "processes"})
        return {entry["name"]: ProcessState(**entry) for entry in answer["processes"]}

    def forget(self, name: str) -> None:
        """Drop the record of an ended process."""
        self._ask({"do": "forget", "name": name})

    def listen(self, address: str) -> None:
        """Have a listening socket opened (once); MachineError when the address is taken."""
        _answer, fds = self._ask({"do": "listen", "address": address})
        for fd in fds:
            if address in self.listeners:
                os.close(fd)
            else:
                self.listeners[address] = fd

    def unlisten(self, address: str) -> None:
        """Close a listening socket everywhere."""
        self._ask({"do": "unlisten", "address": address})
        fd = self.listeners.pop(address, None)
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def set_environ(self, values: dict[str, str]) -> None:
        """Environment for the next start of the controller; kept in the supervisor's memory alone."""
        self._ask({"do": "environ", "set": values})

    def turn(self) -> None:
        """Tell that the caller's loop turns: a controller whose loop does not for long is replaced. Never waits."""
        with self._lock:
            if self._wire is not None:
                if self._waits_since_s is None:
                    self._waits_since_s = time.monotonic()
                try:
                    self._wire.sock.setblocking(False)
                    self._wire.send({"do": "turn"})
                except WireClosed:
                    self._drop()

    def keep_appending(self, name: str) -> None:
        """Set the append flag of a process's standard output again, which the process itself has dropped."""
        self._ask({"do": "append", "name": name})

    def finish(self) -> None:
        """Ask the supervisor to end everything that is left, and itself."""
        self._ask({"do": "finish"})
