"""A steady load from a few threads, which remembers how every single request ended."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter


class Load:
    """`threads` clients, each with its own keep-alive connection, from `with` until its end."""

    def __init__(self, port: int, path: str = "/slow/5", *, method: str = "GET", threads: int = 6, new: bool = False):
        self.port, self.path, self.method, self.new = port, path, method, new
        self.outcomes: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._number = itertools.count()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a request has no end"

    @property
    def done(self) -> int:
        return sum(self.outcomes.values())

    @property
    def failed(self) -> dict[str, int]:
        return {outcome: count for outcome, count in self.outcomes.items() if outcome != "200"}

    def _run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                if connection is None or self.new:
                    if connection is not None:
                        connection.close()
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                body = b"x=1" if self.method == "POST" else None
                connection.request(self.method, f"{self.path}?{next(self._number)}", body=body)
                answer = connection.getresponse()
                answer.read()
                outcome = str(answer.status)
            except http.client.RemoteDisconnected:
                outcome, connection = "closed", None
            except Exception as error:
                outcome = type(error).__name__
                connection = None
            self.outcomes[outcome] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
        if connection is not None:
            connection.close()
