"""What tests of the app's side of a cache share: a server to kill and to hang, and an origin that counts.

Two `Cache` objects share nothing, and so stand for two processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import die_with_parent, free_port, wait_for

from headway.caching.asking import Asking
from headway.caching.client.cache import Cache
from headway.caching.client.link import Away
from headway.caching.engine import find_valkey
from headway.caching.place import CACHES_VARIABLE, place_of_url

PREFIX = "hw:t:hot:"
# For a test of a server that hangs: silence is told from a busy machine, and is not waited for long.
SOON_SILENT = pytest.mark.parametrize("timeout_s", [0.5], ids=["soon silent"])


class Server:
    """A server that can be killed, stopped and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._argv = [str(find_valkey().path), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._argv += ["--dir", str(folder), "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
        wait_for(self.answers, 60.0, "the server answers")

    def answers(self) -> bool:
        try:
            self.ask("PING")
        except Exception:
            return False
        return True

    def ask(self, *command: Any) -> Any:
        with Asking(place_of_url(self.url), 30.0) as asking:
            return asking.ask(*command)

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def end(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


def environment(server: Server) -> dict[str, str]:
    return environment_at(server.url)


def environment_at(url: str, **entry: Any) -> dict[str, str]:
    """What Headway tells the app of a cache at this URL."""
    return {CACHES_VARIABLE: json.dumps({"hot": {"url": url, "prefix": PREFIX} | entry})}


_marks = itertools.count()


@dataclass
class Origin:
    """What values are loaded from; counts how often it is asked."""

    value: int = 0
    asked: int = 0
    takes_s: float = 0.0
    held: asyncio.Event | None = None  # what it is asked from then on is answered when this is set

    async def read(self) -> int:
        self.asked += 1
        found = self.value
        await asyncio.sleep(self.takes_s)
        if self.held is not None:
            await self.held.wait()
        return found


def product_of(hot: Cache, origin: Origin, **options: Any) -> Callable[[int], Any]:
    @hot.cached(**{"ttl": 60, "tags": lambda number: [f"product:{number}"], "name": "product"} | options)
    async def product(number: int) -> dict[str, int]:
        return {"number": number, "value": await origin.read()}

    return product  # type: ignore[no-any-return]


async def trusted(*caches: Cache) -> None:
    """Until their streams of changes are there, and this loop's connections."""
    for each in caches:
        parts = each._parts()
        async with asyncio.timeout(30):
            while not (parts.near.is_trusted and parts.tracking.generation):
                await asyncio.sleep(0.01)
            while True:
                try:
                    await parts.loads().up()
                    break
                except Away:
                    await asyncio.sleep(0.01)


async def heard(*caches: Cache) -> None:
    """Until they have heard of all that was written: whatever the server tells last is this."""
    for each in caches:
        parts, mark = each._parts(), b"mark %d" % next(_marks)
        async with asyncio.timeout(60):
            while mark not in parts.near._changed:
                with contextlib.suppress(Away):
                    link = await parts.loads().up()
                    await link.call(b"SET", parts.told.prefix + b"v:" + mark, b"", b"PX", b"1")
                for _ in range(500):  # the stream of changes may have begun anew meanwhile: then once more
                    if mark in parts.near._changed:
                        break
                    await asyncio.sleep(0.001)
        parts.near._changed.pop(mark)


async def no_lease_is_left(server: Server) -> None:
    """Until all are given back, of which nobody waits for the answer; in time they would run out only much later."""
    async with asyncio.timeout(30):
        while await asyncio.to_thread(server.ask, "KEYS", f"{PREFIX}l:*"):
            await asyncio.sleep(0.01)
