"""What a process holds of one cache: the tier in the process, the stream of changes, and a connection for each event
loop.

Nothing is opened before the first use. Functions that are not asynchronous are served by an event loop in a thread of
its own. A forked child begins anew: it shares neither connections nor threads with its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from headway.caching.client.debt import Debt, Void
from headway.caching.client.link import Link
from headway.caching.client.loads import Loads
from headway.caching.client.near import Near
from headway.caching.client.outage import Outage
from headway.caching.client.rule import Rule
from headway.caching.client.told import Told
from headway.caching.client.tracking import Tracking
from headway.context.asked import tell_worker

Result = TypeVar("Result")
_END_S = 2.0
REFRESHES_MAX = 4  # loads in the background at once, of functions that are not asynchronous


class Parts:
    """Made once a process and cache."""

    def __init__(self, told: Told, rules: Mapping[str, Rule]) -> None:
        self.told = told
        self.near = Near(told.near_bytes)
        self.outage = Outage(told.name)
        self.tracking = Tracking(told, self.near, self._fields, self.outage)
        self.debt = Debt(told.prefix, may_move=not told.place.path)
        self.refreshing = threading.BoundedSemaphore(REFRESHES_MAX)
        self._rules = rules
        self._loads: dict[asyncio.AbstractEventLoop, tuple[Link, Loads]] = {}
        self._last: tuple[asyncio.AbstractEventLoop, Loads] | None = None
        self._background: asyncio.AbstractEventLoop | None = None
        self._serving: threading.Thread | None = None  # runs that loop
        self._lock = threading.Lock()
        self.tracking.start()
        tell_worker()

    def loads(self) -> Loads:
        """Those of the running event loop."""
        loop = asyncio.get_running_loop()
        last = self._last
        if last is not None and last[0] is loop:
            return last[1]
        found = self._loads.get(loop)
        if found is None:
            with self._lock:
                for ended in [other for other in list(self._loads) if other.is_closed()]:
                    self._let_go(*self._loads.pop(ended))
            link = Link(self.told, self.debt, self.outage, self.tracking.meets)
            self.tracking.on_server(link.leave_others)
            found = self._loads[loop] = link, Loads(self.told, self.near, self.tracking, link)
        self._last = loop, found[1]
        return found[1]

    def block(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run `work` in the loop in the background and wait for it; for threads that have no loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop()).result()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` in the loop in the background."""
        asyncio.run_coroutine_threadsafe(work, self._loop())

    def owe(self, *voids: Void) -> None:
        """The server could not be told that these are void: it hears it before any loop believes it again."""
        self.debt.add(*voids)
        running = asyncio.get_running_loop()
        for loop, (link, _loads) in list(self._loads.items()):
            if loop is running:
                link.renew()
            else:
                link.renew_soon()

    async def close(self) -> None:
        """End the connection of the running loop; it opens again when it is needed."""
        found = self._loads.pop(asyncio.get_running_loop(), None)
        self._last = None
        if found is not None:
            found[0].close()
            self._let_go(*found)

    def end(self) -> None:
        """Close everything, from any thread; nothing of it is used any more."""
        self.tracking.close()
        for loop, (link, loads) in list(self._loads.items()):
            loads.close()
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the connection with it
                loop.call_soon_threadsafe(link.close)
        if self._background is not None:
            self._background.call_soon_threadsafe(self._background.stop)
        for thread in (self.tracking, self._serving):
            if thread is not None:
                thread.join(_END_S)

    def _let_go(self, link: Link, loads: Loads) -> None:
        self.tracking.off_server(link.leave_others)
        loads.close()

    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = self._background
        if loop is None:
            with self._lock:
                loop = self._background
                if loop is None:
                    loop = asyncio.new_event_loop()
                    name = f"headway: cache {self.told.name}"
                    self._serving = threading.Thread(target=_serve, args=(loop,), name=name, daemon=True)
                    self._serving.start()
                    self._background = loop
        return loop

    def _fields(self) -> dict[str, int]:
        """What is told of this process."""
        told = {"*:bytes_near": self.near.bytes_held, "*:values_near": self.near.count, "*:evicted": self.near.evicted}
        for rule in tuple(self._rules.values()):
            told |= rule.counts.fields(rule.name)
        return told


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped, and end what is left in it."""
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
    loop.close()
