"""Runs a short-lived program to its end, bounded in time and output; the long-lived ones are the supervisor's.

`subprocess` is imported in this package alone, so that every child has a bound, closed descriptors and a known user.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headway.errors import EngineError
from headway.process.identity import Identity

# Of each stream the last this many bytes are kept: enough for any message, and a program that babbles fills no memory.
OUTPUT_MAX_BYTES = 1024 * 1024
_CHUNK_BYTES = 64 * 1024
# Descendants that a finished program left behind may hold its pipes open; nobody waits longer than this for them.
_LEFT_BEHIND_S = 0.5


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended: exit status (negative = signal number) and what it printed last, decoded."""

    status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    identity: Identity | None = None,
    stdin: str | bytes | None = None,
    cwd: str | None = None,
    heard: Callable[[str], None] | None = None,
) -> Completed:
    """Run `argv` and wait for it. EngineError when it cannot be started or does not end within `timeout_s`.

    `heard` gets each line of its output as it comes. The program leads a process group of its own: on a timeout or an
    interrupt its children end with it.
    """
    name = os.path.basename(argv[0])
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            user=identity.uid if identity else None,
            group=identity.gid if identity else None,
            extra_groups=[] if identity else None,
            start_new_session=True,
        )
    except OSError as error:
        raise EngineError(f"{argv[0]} cannot be started: {error.strerror or error}") from error
    data = stdin.encode() if isinstance(stdin, str) else (stdin or b"")
    try:
        stdout, stderr = _exchange(process, data, time.monotonic() + timeout_s, _Lines(heard) if heard else None)
    except TimeoutError as error:
        raise EngineError(f"{name} did not end within {timeout_s:g} s") from error
    finally:
        end_group(process)
    return Completed(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


class _Lines:
    """Puts together the lines of an output that comes in pieces."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard
        self._rest = b""

    def take(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._heard(line.decode(errors="replace"))
        self._rest = self._rest[-OUTPUT_MAX_BYTES:]


def _exchange(
    process: subprocess.Popen[bytes], data: bytes, deadline_s: float, lines: _Lines | None
) -> tuple[bytes, bytes]:
    """Feed `data`, collect both outputs until the program ended; TimeoutError past the deadline."""
    assert process.stdin
    assert process.stdout
    assert process.stderr
    kept = {process.stdout: bytearray(), process.stderr: bytearray()}
    rest = memoryview(data)
    with selectors.DefaultSelector() as selector:
        for stream in kept:
            selector.register(stream, selectors.EVENT_READ)
        if rest:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        while selector.get_map():
            ended = process.poll() is not None
            if ended:
                deadline_s = min(deadline_s, time.monotonic() + _LEFT_BEHIND_S)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                if ended:
                    break
                raise TimeoutError
            for key, _ in selector.select(min(left_s, 0.1)):
                if key.fileobj is process.stdin:
                    rest = _feed(key.fd, rest)
                    if not rest:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                elif chunk := os.read(key.fd, _CHUNK_BYTES):
                    stream = process.stdout if key.fileobj is process.stdout else process.stderr
                    kept[stream] += chunk
                    del kept[stream][:-OUTPUT_MAX_BYTES]
                    if lines is not None and stream is process.stdout:
                        lines.take(chunk)
                else:
                    selector.unregister(key.fileobj)
    try:
        process.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    return bytes(kept[process.stdout]), bytes(kept[process.stderr])


def _feed(fd: int, rest: memoryview) -> memoryview:
    try:
        return rest[os.write(fd, rest[:_CHUNK_BYTES]) :]
    except BlockingIOError:
        return rest
    except BrokenPipeError:
        return rest[:0]  # it did not want to read on; its exit status tells whether that was right


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Whatever happened: nothing of the program's group lives on, no descriptor stays open, it is reaped."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
