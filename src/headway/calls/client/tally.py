"""What a process counts of the services that it calls, told in a file of its own that the controller reads.

Written by a thread, at most once a second and only after something changed: calls pay for it with a look at a flag. The
file goes when the process ends; what a killed one leaves is known by its process being gone.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headway.process.linux import start_ticks

_EVERY_S = 1.0


class Tally:
    """Tells what the targets of this process count; made once a process."""

    def __init__(self, folder: Path, service: str) -> None:
        self._folder = folder
        self._pid = os.getpid()
        self._service = service
        self._path = folder / f"{service or 'process'}-{os.getpid()}.json"
        self._targets: dict[str, Callable[[], dict[str, Any]]] = {}
        self._changed = threading.Event()
        self._ended = threading.Event()
        self.is_told = False  # that something changed
        threading.Thread(target=self._run, name="headway: calls told", daemon=True).start()
        atexit.register(self.end)
        worker = sys.modules.get("headway_worker.asked")
        if worker is not None:
            worker.at_end.append(self.end)

    def add(self, name: str, told: Callable[[], dict[str, Any]]) -> None:
        """Tell of target `name` what `told` says."""
        self._targets[name] = told

    def tell(self) -> None:
        """Something changed."""
        self.is_told = True
        self._changed.set()

    def end(self) -> None:
        """The process ends: what it counted ends with it."""
        if os.getpid() != self._pid:
            return  # a forked child: this is its parent's
        self._ended.set()
        self._changed.set()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _run(self) -> None:
        while True:
            self._changed.wait()
            if self._ended.wait(_EVERY_S):
                return
            self._changed.clear()
            self.is_told = False
            with contextlib.suppress(OSError):  # a full disk: the next one tells more
                self._write()

    def _write(self) -> None:
        targets = {name: told() for name, told in list(self._targets.items())}
        document = {
            "service": self._service,
            "pid": os.getpid(),
            "ticks": start_ticks(os.getpid()),
            "written": time.time(),
            "targets": targets,
        }
        self._folder.mkdir(mode=0o700, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(document))
        os.replace(new, self._path)
        if self._ended.is_set():  # it ended meanwhile
            self._path.unlink(missing_ok=True)
