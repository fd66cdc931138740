"""The right to load a key: one holder in the whole fleet, for as long as it says that it is at work.

Who finds a lease held waits for the server's word that it was given back, for it tells of these keys as of all
others; who cannot be told looks again after a moment. A holder that dies says nothing any more, and its lease runs
out.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from headway.caching.client.generations import made
from headway.caching.client.link import Away, Link
from headway.caching.client.near import Near, now
from headway.caching.client.tracking import Tracking
from headway.caching.scripts import COUNTER, FILL, KEEP, TAKE, TOKEN_BYTES

LEASE_S = 2.0
LOAD_MAX_S = 60.0  # a load that takes longer is waited for no more, and its lease not kept alive
_BLIND_PAUSE_S = 0.02  # between looks at a lease, when the server cannot tell of it
_ROUNDS_MAX = 200


@dataclass(slots=True, eq=False)
class Lease:
    """One that we hold. `since`: the changes that the process knew of when it was given."""

    key: bytes
    tags: tuple[bytes, ...]
    token: bytes
    count: bytes  # where the counter was, when it was given
    generations: list[bytes]  # of the cache and the tags, when it was given
    since: int
    keeping: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """What another has stored meanwhile, with the generations of now."""

    data: bytes
    generations: list[bytes]
    since: int


class Leases:
    """Those of one event loop."""

    def __init__(self, prefix: bytes, near: Near, tracking: Tracking, link: Link) -> None:
        self._prefix = prefix
        self._near = near
        self._tracking = tracking
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}
        tracking.on_release(self._released)

    def close(self) -> None:
        """Hear of no leases any more."""
        self._tracking.off_release(self._released)

    async def take(
        self, key: bytes, tags: tuple[bytes, ...], mark: bytes | None, *, waits: bool
    ) -> Lease | Stored | None:
        """The lease, once nobody holds it; or the value that is stored, other than the one that `mark` is of.

        None where it is held and the caller does not wait. Raises Away without a server.
        """
        value, lease, *of_generations = self._names(key, tags)
        names = [value, lease, self._prefix + COUNTER, *of_generations]
        token = secrets.token_hex(TOKEN_BYTES // 2).encode()
        lease_ms = b"%d" % int(LEASE_S * 1000)
        for _ in range(_ROUNDS_MAX):
            # Before the question, so that no word is missed.
            word = self._loop.create_future()
            self._waiting.setdefault(key, []).append(word)
            try:
                since = self._near.changes
                seen = (b"0", b"") if mark is None else (b"1", mark)
                new = made(), b"%d" % int(time.time() * 1000)
                what, *rest = await self._link.run(TAKE, names, token, lease_ms, *seen, *new)
                if what == b"lease":
                    return Lease(key, tags, token, rest[0], rest[1:], since)
                if what == b"value":
                    return Stored(rest[0], rest[1:], since)
                if not waits:
                    return None
                await self._wait(word, int(rest[0]))
            except asyncio.CancelledError:
                self._say(Lease(key, tags, token, b"", [], 0), b"0")  # it may be ours by now
                raise
            finally:
                self._forget(key, word)
        raise Away("the lease was always held")

    def keep_alive(self, lease: Lease, given_up: Callable[[], None]) -> None:
        """Prolong it at a third of its time, for as long as a load may take; then call `given_up`."""
        until = now() + LOAD_MAX_S

        def prolong() -> None:
            if now() > until:
                lease.keeping = None
                given_up()
                return
            self._say(lease, b"%d" % int(LEASE_S * 1000))
            lease.keeping = self._loop.call_later(LEASE_S / 3, prolong)

        lease.keeping = self._loop.call_later(LEASE_S / 3, prolong)

    async def fill(self, lease: Lease, own: tuple[bytes, ...], head: bytes, rest: bytes, kept_ms: int) -> bool:
        """Store what was loaded under it, and give it back. False when it was overtaken. Raises Away.

        own: tags that the value names itself, whose generations come between `head` and `rest`.
        """
        _stop_keeping(lease)
        names = [*self._names(lease.key, lease.tags), *(self._prefix + b"t:" + tag for tag in own)]
        told = b"%d" % max(1, kept_ms), b"%d" % len(lease.tags), lease.count, made(), rest
        return bool(await self._link.run(FILL, names, lease.token, head, *told) == 1)

    def give_back(self, lease: Lease) -> None:
        """It is free for the next who asks."""
        _stop_keeping(lease)
        self._say(lease, b"0")

    def _say(self, lease: Lease, lease_ms: bytes) -> None:
        with contextlib.suppress(Away):
            self._link.call(b"EVAL", KEEP.text, b"1", self._prefix + b"l:" + lease.key, lease.token, lease_ms)

    def _names(self, key: bytes, tags: tuple[bytes, ...]) -> list[bytes]:
        prefix = self._prefix
        return [prefix + b"v:" + key, prefix + b"l:" + key, prefix + b"g", *(prefix + b"t:" + tag for tag in tags)]

    async def _wait(self, word: asyncio.Future[None], lease_left_ms: int) -> None:
        limit_s = max(lease_left_ms, 1) / 1000 + 0.005
        if not self._near.is_trusted:
            limit_s = min(limit_s, _BLIND_PAUSE_S * (1 + random.random()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await word

    def _forget(self, key: bytes, word: asyncio.Future[None]) -> None:
        waiting = self._waiting[key]
        waiting.remove(word)
        if not waiting:
            del self._waiting[key]

    def _released(self, key: bytes) -> None:
        """From another thread: a lease was given, given back or ran out, or a value stored."""
        if key in self._waiting:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake, key)

    def _wake(self, key: bytes) -> None:
        for word in self._waiting.get(key, ()):
            if not word.done():
                word.set_result(None)


def _stop_keeping(lease: Lease) -> None:
    if lease.keeping is not None:
        lease.keeping.cancel()
        lease.keeping = None
