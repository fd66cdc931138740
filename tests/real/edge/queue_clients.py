"""Clients of which each request is known by its name, and a queue that grows by one request at a time."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from edge_site import Site, until

from headway.model.overload import MAIN, EdgeQueue


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def came_from(self) -> list[str]:
        """The words of the header that the edge adds for the worker."""
        return next(value for name, value in json.loads(self.body)["headers"] if name == "x-headway-from").split(" ")

    @property
    def replica(self) -> str:
        return str(json.loads(self.body)["replica"])


class Asking:
    """One who asks again and again at moments of chance, at most one question at a time, and counts the answers."""

    def __init__(self, port: int, source: str, every_s: float, *, path: str = "/slow/40", wait_s: float = 0.0):
        self.asked = self.served = 0
        self._port, self._source, self._every_s, self._path, self._wait_s = port, source, every_s, path, wait_s
        self._chance = random.Random(f"{source} {wait_s}")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(90)

    def _ask(self) -> None:
        self._over.wait(self._wait_s)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60, source_address=(self._source, 0))
        with contextlib.closing(connection):
            while not self._over.is_set():
                due_s = time.monotonic() + self._chance.expovariate(1 / self._every_s)
                connection.request("GET", self._path)
                answer = connection.getresponse()
                answer.read()
                self.asked += 1
                self.served += answer.status == 200
                self._over.wait(max(0.0, due_s - time.monotonic()))


class Clients:
    """Requests under way, each in a thread and on a connection of its own; all of them answered when it ends."""

    def __init__(self, site: Site, number: int = MAIN) -> None:
        self.site = site
        self.number = number
        self._pool = ThreadPoolExecutor(128)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self.site.release()
        self._pool.shutdown()

    def ask(self, path: str, *, source: str = "127.0.0.1", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=60, source_address=(source, 0))
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        told = Answer(
            answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        )
        connection.close()
        return told

    def begin(self, path: str, **settings: Any) -> Future[Answer]:
        return self._pool.submit(self.ask, path, **settings)

    def occupy(self, count: int = 1, path: str = "/hold/first") -> list[Future[Answer]]:
        """Take so many places of the replicas."""
        asked = [self.begin(path) for _ in range(count)]
        until(lambda: self.queue.in_flight == count, f"{count} are in flight")
        return asked

    def wait(self, name: str, path: str = "/hold/", **settings: Any) -> Future[Answer]:
        """One request more in the queue; it is known as `name` when it arrives."""
        before = self.queue.queued
        asked = self.begin(f"{path}{name}", **settings)
        until(lambda: asked.done() or self.queue.queued == before + 1, f"{name} waits")
        assert not asked.done(), f"{name} did not wait: {asked.result()}"
        return asked

    @property
    def queue(self) -> EdgeQueue:
        return self.site.api.observe().queues()["web", self.number]

    def order(self) -> list[str]:
        """Let all be answered; the names in the order in which they reached the replica, without the first."""
        self.site.release()
        self._pool.shutdown()
        return [str(request["target"]).rpartition("/")[2] for request in self.site.recorded()][1:]
