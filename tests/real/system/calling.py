"""What tests of the client share: services in a row that call each other from Python, and a load of GETs."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

# Each calls the service that its environment names as NEXT. The last one asks its database, where it has one; what it
# does besides is said by files in the folder: `hangs`, `half`.
APP = """
import asyncio, itertools, json, os
from headway import database, service

NAME, NEXT = os.environ["HEADWAY_SERVICE"], os.environ.get("NEXT")
leaf = service(NEXT) if NEXT else None
main = database("main") if "HEADWAY_DATABASES" in os.environ else None
count = itertools.count()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    seen = {"service": NAME, "replica": os.environ["HEADWAY_REPLICA"], "headers": headers}
    status = 200
    if scope["path"] == "/plain":
        pass
    elif leaf is not None:
        if scope["path"] == "/spared":  # by whoever does without
            # Not to the last moment: a busy machine needs time for an answer without it.
            found = await leaf.get(scope["path"], deadline=3.0, fallback=lambda error: type(error).__name__)
            is_there = not isinstance(found, str) and found.status_code == 200
            seen["next"] = found.json() if is_there else str(found)
        else:
            found = await leaf.get(scope["path"])
            seen["next"], status = found.json() if found.status_code == 200 else found.text, found.status_code
    else:
        if main is not None:
            async with main.at() as connection:
                seen["value"] = await connection.fetchval("SELECT 7")
        while os.path.exists("hangs"):
            await asyncio.sleep(0.05)
        if os.path.exists("half") and next(count) % 2:
            status = 503
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})
"""

# web calls inventory calls pricing.
CHAIN = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "chain:app"
routes = ["/"]
replicas = 2
deadline = "10s"
criticality = "critical_plus"
uses = ["inventory"]
env = { NEXT = "inventory" }
[services.inventory]
app = "chain:app"
replicas = 2
uses = ["pricing"]
env = { NEXT = "pricing" }
[services.pricing]
app = "chain:app"
replicas = 2
"""


class Load:
    """GETs of one path, counted by status; what is no answer is counted by its error."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.found: collections.Counter[int | str] = collections.Counter()
        self.slowest_s = 0.0
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                began_s = time.monotonic()
                try:
                    what: int | str = client.get(self.url).status_code
                except httpx.HTTPError as error:
                    what = type(error).__name__
                with self._lock:
                    self.found[what] += 1
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
                stop.wait(0.01)  # who asks without a pause takes the processor from those who answer

    @property
    def count(self) -> int:
        return sum(self.found.values())


@contextmanager
def load(url: str, threads: int) -> Iterator[Load]:
    """So many clients, each with one request after the other, until the end of the block."""
    made, stop = Load(url), threading.Event()
    running = [threading.Thread(target=made.run, args=(stop,)) for _ in range(threads)]
    for one in running:
        one.start()
    try:
        yield made
    finally:
        stop.set()
        for one in running:
            one.join(90)
