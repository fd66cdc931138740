"""Runs a program whose output or input is too large to keep: it goes through in blocks.

The program hangs on our end of the pipe. When this process dies, even by SIGKILL, it can write no more (or reads the
end of its input) and ends too, so that no dump goes on that nobody wants.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO

from headway.errors import EngineError
from headway.process.run import Completed, end_group

_CHUNK_BYTES = 256 * 1024
_LOOK_S = 0.25
_SAID_MAX_BYTES = 64 * 1024

ShouldStop = Callable[[], bool]


class PouringStopped(Exception):
    """It was to stop, and did; the program has ended."""


def pour_out(
    argv: Sequence[str], sink: Callable[[bytes], None], *, env: Mapping[str, str], stuck_s: float, stop: ShouldStop
) -> Completed:
    """Run `argv` to its end and hand its output to `sink`, block by block; what `sink` raises ends the program.

    EngineError when it cannot be started or says nothing for `stuck_s`; PouringStopped when `stop` says so.
    """
    with tempfile.TemporaryFile() as said:
        process = _start(argv, env, subprocess.DEVNULL, subprocess.PIPE, said)
        try:
            assert process.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                until_s = time.monotonic() + stuck_s
                while True:
                    _look(argv, stop, until_s, stuck_s)
                    if not selector.select(_LOOK_S):
                        continue
                    block = os.read(process.stdout.fileno(), _CHUNK_BYTES)
                    if not block:
                        break
                    sink(block)
                    until_s = time.monotonic() + stuck_s
            _wait(process, argv, stop, stuck_s)
        finally:
            end_group(process)
        return Completed(process.returncode, "", _tail(said))


class PourIn:
    """A program that is fed block by block; a context manager, at whose end it has ended whatever happened."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], stuck_s: float, stop: ShouldStop) -> None:
        self._argv, self._stuck_s, self._stop = argv, stuck_s, stop
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        try:
            self._process = _start(argv, env, subprocess.PIPE, subprocess.DEVNULL, self._said)
        except BaseException:
            self._said.close()
            raise
        assert self._process.stdin is not None
        self._stdin = self._process.stdin
        os.set_blocking(self._stdin.fileno(), False)

    def __enter__(self) -> PourIn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_group(self._process)
        self._said.close()

    def write(self, data: bytes) -> bool:
        """Feed it all of `data`; False when it has closed its input: `finish` says why."""
        rest = memoryview(data)
        until_s = time.monotonic() + self._stuck_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdin, selectors.EVENT_WRITE)
            while rest:
                _look(self._argv, self._stop, until_s, self._stuck_s)
                if not selector.select(_LOOK_S):
                    continue
                try:
                    rest = rest[os.write(self._stdin.fileno(), rest) :]
                    until_s = time.monotonic() + self._stuck_s
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    return False
        return True

    def finish(self) -> Completed:
        """That was all: wait for its end."""
        self._stdin.close()
        _wait(self._process, self._argv, self._stop, self._stuck_s)
        return Completed(self._process.returncode, "", _tail(self._said))


def _start(
    argv: Sequence[str], env: Mapping[str, str], stdin: int, stdout: int, said: IO[bytes]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv), env=dict(env), cwd="/", stdin=stdin, stdout=stdout, stderr=said, start_new_session=True
        )
    except OSError as error:
        raise EngineError(f"{argv[0]} cannot be started: {error.strerror or error}") from error


def _wait(process: subprocess.Popen[bytes], argv: Sequence[str], stop: ShouldStop, stuck_s: float) -> None:
    until_s = time.monotonic() + stuck_s
    while True:
        try:
            process.wait(_LOOK_S)
            return
        except subprocess.TimeoutExpired:
            _look(argv, stop, until_s, stuck_s)


def _look(argv: Sequence[str], stop: ShouldStop, until_s: float, stuck_s: float) -> None:
    if stop():
        raise PouringStopped
    if time.monotonic() > until_s:
        raise EngineError(f"{os.path.basename(argv[0])} got no further for {stuck_s:g} s")


def _tail(said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - _SAID_MAX_BYTES))
    return said.read().decode(errors="replace")
