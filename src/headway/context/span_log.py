"""Writes spans into the file of a replica: in batches, from a thread of its own, so that no request waits for a disk.

What does not fit, into the queue or onto the disk, is dropped and counted; the count is written where there is room
again. The file is opened for each batch and appended to: a process that is killed leaves whole lines, and processes
that were forked share the file.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import threading
import time
from collections import deque
from typing import Any

import msgspec

from headway.model.span import DROPPED, FILE_MAX_BYTES

QUEUE_MAX = 10_000  # spans; at some hundred bytes each
_BATCH_MAX = 1000
_EVERY_S = 0.2


class SpanLog:
    """The file at `path`, and the one before it with `.1` behind its name."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._encode = msgspec.json.Encoder(enc_hook=str).encode
        self._begin()
        os.register_at_fork(after_in_child=self._begin)
        atexit.register(self.flush)

    def _begin(self) -> None:
        self._queue: deque[dict[str, Any]] = deque()
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_awake = False
        self._dropped = 0
        self._dropped_s = 0.0  # since when
        self._is_torn = False  # the file may end within a line

    def add(self, document: dict[str, Any]) -> None:
        """Have it written; any thread may ask, and none waits."""
        if len(self._queue) >= QUEUE_MAX:
            self._drop(1)
            return
        self._queue.append(document)
        if not self._is_awake:
            self._wake()

    def _drop(self, count: int) -> None:
        if not self._dropped:
            self._dropped_s = time.time()
        self._dropped += count

    def _wake(self) -> None:
        self._is_awake = True
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="headway-spans", daemon=True)
                    try:
                        self._thread.start()
                    except RuntimeError:  # the process ends: `flush` writes what there is
                        return
        self._wanted.set()

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            while True:
                time.sleep(_EVERY_S)
                self.flush()
                self._is_awake = False
                if not self._queue:  # what comes from here on sees that nobody is awake
                    break
                self._is_awake = True

    def flush(self) -> None:
        """Write all that is there."""
        queue = self._queue
        with self._lock:
            for _ in range(QUEUE_MAX // _BATCH_MAX + 1):
                batch: list[dict[str, Any]] = []
                while queue and len(batch) < _BATCH_MAX:
                    batch.append(queue.popleft())
                if not batch:
                    return
                self._write(batch)

    def _write(self, batch: list[dict[str, Any]]) -> None:
        told, count = self._dropped, len(batch)
        if told:
            batch.append({DROPPED: told, "since": round(self._dropped_s, 3), "time": round(time.time(), 3)})
        lines = b"\n".join(map(self._line, batch)) + b"\n"
        if self._is_torn:
            lines = b"\n" + lines
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                if os.write(fd, lines) < len(lines):
                    self._is_torn = True
                    self._drop(count)
                    return
                self._turn_over(fd)
            finally:
                os.close(fd)
        except OSError:
            self._drop(count)
            return
        self._is_torn = False
        self._dropped -= told

    def _turn_over(self, fd: int) -> None:
        """Begin another file where this one is full, unless a process that shares it has done so meanwhile."""
        status = os.fstat(fd)
        if status.st_size > FILE_MAX_BYTES:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(status, os.stat(self._path)):
                    os.replace(self._path, f"{self._path}.1")

    def _line(self, document: dict[str, Any]) -> bytes:
        try:
            return self._encode(document)
        except (ValueError, OverflowError):  # half of a surrogate pair, say, as the JSON of a client may bring it
            return json.dumps(document, ensure_ascii=False, default=str).encode(errors="replace")
