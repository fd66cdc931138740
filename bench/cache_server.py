"""The Valkey that all of them share, and clients of it: started afresh, killed, started again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.stacks import HERE, spawn
from headway.caching.engine import find_valkey

NEAR_BYTES = 32 * 1024 * 1024
_NEAR_NONE = 1


class Server:
    """A Valkey on a unix socket, which keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: ExitStack | None = None
        self.path = folder / "valkey.sock"

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._running = ExitStack()
        argv = [
            str(find_valkey().path),
            "--port",
            "0",
            "--unixsocket",
            str(self.path),
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        argv += ["--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru"]
        self.process = self._running.enter_context(spawn(*argv, cwd=self._folder))
        until_s = time.monotonic() + 10
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(str(self.path))
                    return
            except OSError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.01)

    def kill(self) -> None:
        """At once, as the kernel does it."""
        self.process.kill()
        self.stop()

    def stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


@contextmanager
def server() -> Iterator[Server]:
    """A server that is up, and goes with the block."""
    with tempfile.TemporaryDirectory(prefix="headway-bench-", dir="/tmp") as name:
        started = Server(Path(name))
        started.start()
        try:
            yield started
        finally:
            started.stop()


class Client:
    """One process that asks."""

    def __init__(self, process: subprocess.Popen[str], what: str) -> None:
        self.process = process
        self.what = what

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "ready\n":
            raise RuntimeError(f"{self.what}: {line!r}: {self.process.communicate(timeout=10)[1][-2000:]}")

    def begin(self, at: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{at}\n")
        self.process.stdin.flush()

    def result(self, timeout_s: float) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=timeout_s)
        if self.process.returncode or not out.strip():
            raise RuntimeError(f"{self.what}: status {self.process.returncode}: {err[-2000:]}")
        found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return found


@contextmanager
def clients(
    at: Server, kind: str, works: Sequence[tuple[str, dict[str, Any]]], *, near: bool = True
) -> Iterator[list[Client]]:
    """So many clients, all of them ready; what still runs at the end is ended."""
    name = kind.partition(":")[0]
    hot = {
        "url": f"unix://{at.path}",
        "prefix": "hw:bench:hot:",
        "near_bytes": NEAR_BYTES if near else _NEAR_NONE,
        "timeout_s": 0.1,
        "sentinel": None,
    }
    env = {**os.environ, "BENCH_VALKEY": f"unix://{at.path}", "HEADWAY_CACHES": json.dumps({"hot": hot})}
    started = []
    try:
        for work, task in works:
            argv = [sys.executable, "-m", "bench.cache_client", kind, work, json.dumps(task)]
            process = subprocess.Popen(
                argv,
                cwd=HERE.parent,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(Client(process, f"{name}, {work}"))
        for client in started:
            client.wait_ready()
        yield started
    finally:
        for client in started:
            client.process.kill()
            client.process.wait()


def asked(
    at: Server, kind: str, works: Sequence[tuple[str, dict[str, Any]]], timeout_s: float, *, near: bool = True
) -> list[dict[str, Any]]:
    """What the clients found out, begun in the same moment."""
    with clients(at, kind, works, near=near) as started:
        begin = time.monotonic() + 0.3
        for client in started:
            client.begin(begin)
        return [client.result(timeout_s) for client in started]
