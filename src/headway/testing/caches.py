"""The declared caches for the tests of an app: each a Valkey of the run's own, empty when a test begins."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from headway.caching.asking import Asking, Unanswered
from headway.caching.client import cache as client
from headway.caching.place import CACHES_VARIABLE, access, prefix_of
from headway.caching.settings import MEMORY_BYTES
from headway.caching.valkey import STOP_TIMEOUT_S, Server, prepare
from headway.declaration.load import Loaded
from headway.errors import EngineError
from headway.process.companion import Companion, start_companion

_READY_S = 20.0
_TAIL_BYTES = 2000
# Tests are to find what they have put there, also on a machine that is busy: silence is not taken for absence so soon.
_TIMEOUT_S = 5.0


class Caches:
    """A server for each."""

    def __init__(self, loaded: Loaded) -> None:
        self._system = loaded.system
        self._running: dict[str, tuple[Server, Companion]] = {}

    def start(self, folder: Path) -> None:
        """Bring the servers up; all that they write is in `folder`."""
        (home := folder / "c").mkdir()
        home.chmod(0o711)  # the engine's user must be able to enter it
        for name, declared in self._system.caches.items():
            server = prepare(home, name, declared.memory_max_bytes or MEMORY_BYTES)
            log = folder / f"cache.{name}.log"
            process = start_companion(
                server.argv, env=server.env, cwd=str(server.folder), identity=server.identity, log=log
            )
            self._running[name] = server, process
            _wait_until_ready(server, process, log)

    def stop(self) -> None:
        """End the servers."""
        self.let_go()
        for _server, process in self._running.values():
            process.stop(signal.SIGTERM, STOP_TIMEOUT_S)
        self._running = {}

    @property
    def urls(self) -> dict[str, str]:
        """Where they are, by name."""
        return {name: server.place.url for name, (server, _process) in self._running.items()}

    def fields(self) -> dict[str, dict[str, str]]:
        """What references to the caches stand for."""
        return {name: {"url": url} for name, url in self.urls.items()}

    def told(self) -> dict[str, str]:
        """What the app is told of them, in its environment."""
        told = {
            name: access(
                server.place,
                prefix_of(self._system.name, name),
                self._system.caches[name].near_max_bytes,
                max(_TIMEOUT_S, self._system.caches[name].timeout_s),
            )
            for name, (server, _process) in self._running.items()
        }
        return {CACHES_VARIABLE: json.dumps(told)}

    def clear(self) -> None:
        """Nothing is in them any more, at the servers and in this process."""
        self.let_go()
        for server, _process in self._running.values():
            with Asking(server.place, _TIMEOUT_S) as asking:
                asking.ask("FLUSHALL")

    def let_go(self) -> None:
        """Close what the app keeps open."""
        for each in list(client._caches.values()):
            each.let_go()


def _wait_until_ready(server: Server, process: Companion, log: Path) -> None:
    until_s = time.monotonic() + _READY_S
    while True:
        try:
            with Asking(server.place):
                return
        except Unanswered as error:
            if process.lives and time.monotonic() < until_s:
                time.sleep(0.01)
                continue
            said = log.read_text(errors="replace")[-_TAIL_BYTES:].strip()
            raise EngineError(f"cache {server.name}: {error.message}", hint=f"It said last: {said}") from error
