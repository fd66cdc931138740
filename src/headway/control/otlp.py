"""`python -m headway.control.otlp STATE SYSTEM`: sends spans to a collector, in a process of its own.

It reads the files that the edge and the replicas write anyway, so nobody waits for it. How far it has come is stored;
what it falls behind by is bounded by what those files hold. Where the collector is, what it is told besides and how
long it may take stand in OpenTelemetry's own environment variables.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from headway.control.follow import Position, end_of, read_on, read_position
from headway.control.otlp_spans import exported
from headway.control.trace_files import read_line
from headway.process.folders import Folders

POSITIONS = "otlp.json"  # in the folder of the spans
_EVERY_S = 1.0
_BATCH_MAX = 512
_ROUND_MAX = 4096  # spans in memory at once
_READ_BYTES = 256 * 1024
_PAUSE_S, _PAUSE_MAX_S = 1.0, 30.0
_GIVE_UP_S = 300.0  # on one batch: a collector that never takes it must not keep all others from it
_LAST_S = 2.0  # for what is left when it is to end
_END_S = 10  # whatever it waits for: nobody is left to kill it where the controller is gone


class Exporter:
    """`send` gives whether the collector took a batch."""

    def __init__(self, folders: Folders, system: str, send: Callable[[Sequence[ReadableSpan]], bool]) -> None:
        self._folders, self._system, self._send = folders, system, send
        self._stored = folders.traces / POSITIONS
        self._positions = self._load()
        self._is_refused = False
        self._turn = 0
        self._ends = False
        # Not an event: a signal's handler that sets one stands still for ever where it interrupts who waits for it.
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._until_s = float("inf")

    def end(self) -> None:
        """Send what is there, if that is quick, and end. A signal's handler may call it."""
        self._until_s = time.monotonic() + _LAST_S
        self._ends = True
        self._woken.put(None)

    def run(self) -> None:
        """Until it is told to end."""
        while not self._ends:
            if not self.round():
                self._pause(_EVERY_S)
        # At least once: whoever was kept from the processor until now has not sent what came last.
        while self.round() and time.monotonic() < self._until_s:
            pass

    def _pause(self, pause_s: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._woken.get(timeout=pause_s)

    def round(self) -> bool:
        """Read on in all files and send what is new; whether there may be more."""
        spans: list[ReadableSpan] = []
        moved: dict[Path, Position] = {}
        more = False
        files = self._files()
        self._turn = (self._turn + 1) % len(files)
        for path in files[self._turn :] + files[: self._turn]:  # no file keeps others from their turn
            before = self._positions.get(path, Position())
            lines, after = read_on(path, before, _READ_BYTES)
            found = [exported(span, self._system) for line in lines for span in read_line(line)]
            spans += [span for span in found if span is not None]
            moved[path] = after
            more = more or bool(lines)
            if len(spans) >= _ROUND_MAX:
                break
        for first in range(0, len(spans), _BATCH_MAX):
            self._deliver(spans[first : first + _BATCH_MAX])
            if self._ends and time.monotonic() > self._until_s:
                return False
        if any(self._positions.get(path) != position for path, position in moved.items()):
            self._positions |= moved
            self._store()
        return more

    def _deliver(self, batch: list[ReadableSpan]) -> None:
        """Until the collector takes them, or has had time enough."""
        give_up_s, pause_s = time.monotonic() + _GIVE_UP_S, _PAUSE_S
        while not self._send(batch):
            if not self._is_refused:
                self._is_refused = True
                _say("the collector does not take spans; they wait in their files")
            now_s = time.monotonic()
            if now_s > min(give_up_s, self._until_s):
                _say(f"{len(batch)} spans were given up")
                return
            self._pause(min(pause_s, 0.2) if self._ends else pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)
        if self._is_refused:
            self._is_refused = False
            _say("the collector takes spans again")

    def _files(self) -> list[Path]:
        with contextlib.suppress(OSError):
            spans = [Path(entry.path) for entry in os.scandir(self._folders.traces) if entry.name.endswith(".jsonl")]
            return [self._folders.logs / "access.log", *sorted(spans)]
        return [self._folders.logs / "access.log"]

    def _load(self) -> dict[Path, Position]:
        """Where it was; the first time, from now on."""
        try:
            stored = json.loads(self._stored.read_text())
            return {Path(path): read_position(position) for path, position in stored.items()}
        except (OSError, ValueError, AttributeError):
            return {path: end_of(path) for path in self._files()}

    def _store(self) -> None:
        present = set(self._files())
        self._positions = {path: position for path, position in self._positions.items() if path in present}
        told = {str(path): position.document() for path, position in self._positions.items()}
        with contextlib.suppress(OSError):  # what cannot be stored is sent twice at worst
            fresh = self._stored.with_suffix(".new")
            fresh.write_text(json.dumps(told))
            os.replace(fresh, self._stored)


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", file=sys.stderr, flush=True)


class _Once(logging.Handler):
    """What the exporter's library says, without saying the same again and again."""

    _last = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().splitlines()[0][:500]
        if text != self._last:
            self._last = text
            _say(text)


def main(state: str, system: str) -> int:
    """Until SIGTERM."""
    logging.basicConfig(handlers=[_Once()], level=logging.WARNING)
    library = OTLPSpanExporter()

    def send(batch: Sequence[ReadableSpan]) -> bool:
        return library.export(batch) is SpanExportResult.SUCCESS

    exporter = Exporter(Folders(Path(state), Path(state)), system, send)

    def end(_number: int, _frame: object) -> None:
        signal.alarm(_END_S)  # which ends the process, whatever it is at
        exporter.end()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exporter.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
