"""Clients of which each request is known by its name, and a queue that grows by one request at a time."""

from __future__ import annotations

import http.client
import json
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
        connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=30, source_address=(source, 0))
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
