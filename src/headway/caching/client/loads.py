"""Sees to it that a value that nobody has is loaded once: in this process, and in the whole fleet.

On a miss one of those who ask takes the lease of the key and loads; the others wait for that load, in this process by
a future, in others by the word of the server that the lease was given back. A lease is kept alive while its load
runs, and a holder that dies loses it. Without a server the same rule holds in the process alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from headway.caching.blob import HEADER, Blob, pack
from headway.caching.client.failures import Failures
from headway.caching.client.leases import Lease, Leases
from headway.caching.client.link import Away, Link
from headway.caching.client.looks import VALUE_MAX_BYTES, Looks
from headway.caching.client.near import Near, now
from headway.caching.client.rule import Rule
from headway.caching.client.told import Told
from headway.caching.client.tracking import Tracking
from headway.caching.client.want import Found, GaveUp, Missed, NotKept, Want, inside, is_within, refuse_loop
from headway.caching.codec import carried, compressed
from headway.context.asked import leave_request, patience_s
from headway.context.trace import Span, span
from headway.errors import CacheBusy, HeadwayError

WAITERS_MAX = 20_000  # calls that wait for a place to load, of one function
_ROUNDS_MAX = 200
_log = logging.getLogger("headway.caching")


@dataclass(slots=True, eq=False)
class Flight:
    """One load under way."""

    want: Want
    future: asyncio.Future[Any]
    mark: bytes | None = None  # of the value it replaces, if there is one
    fallback: Found | None = None  # that value, where it may still be given
    is_refresh: bool = False
    lease: Lease | None = None  # None: without a server
    since: int = 0
    started: float = 0.0
    slot: asyncio.Semaphore | None = None
    waiting: int = 0  # calls that wait for it
    is_late: bool = False  # one of them could not wait any longer


class Loads:
    """The looks and loads of one event loop."""

    def __init__(self, told: Told, near: Near, tracking: Tracking, link: Link) -> None:
        self._prefix = told.prefix
        self._near = near
        self._tracking = tracking
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._flights: dict[bytes, Flight] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._queued: Counter[str] = Counter()
        self._failures = Failures()
        self._tasks: set[asyncio.Task[Any]] = set()
        near.on_change(self._changed)
        self.looks = Looks(told.prefix, near, tracking, link, self._failures)
        self._leases = Leases(told.prefix, near, tracking, link)

    # --- what a call does ---------------------------------------------------------------------------------------

    async def value(self, want: Want, load: Callable[[], Awaitable[Any]], found: Found | Missed) -> Any:
        """The value of a call that was looked for: what was found, loaded again in the background where that is due,
        or what `load` gives."""
        if isinstance(found, Missed):
            found = await self.load(want, found, load)
        elif found.due is not None:
            self.refresh(want, load, found.due)
        return self.given(want.rule, found)

    async def find(self, want: Want, load: Callable[[], Awaitable[Any]]) -> Found | Missed:
        """The value where there is one; `load` refreshes it in the background when it is time."""
        found = await self.looks.find(want)
        if isinstance(found, Found) and found.due is not None:
            self.refresh(want, load, found.due)
        return found

    async def load(self, want: Want, missed: Missed, load: Callable[[], Awaitable[Any]]) -> Found:
        """The value that `load` gives, or the load that is under way. It goes on when the caller is cancelled."""
        with load_span(want) as told:
            flight = self.under_way(want)
            if flight is None:
                flight = self.start(want, missed)
                self._run(self._fly(flight, load))
                return await self.outcome(flight, began_it=True)
            told.set(shared=True)
            return await self.outcome(flight)

    async def outcome(self, flight: Flight, *, began_it: bool = False) -> Found:
        """What a load gives. CacheBusy when the caller's deadline comes before it: only one's own load, once it has
        begun, is the app's own matter and is waited for."""
        flight.waiting += 1
        try:
            limit_s = patience_s(math.inf)
            if limit_s < math.inf:
                await asyncio.wait((flight.future,), timeout=limit_s)
                if not flight.future.done() and not (began_it and flight.started):
                    return self.too_late(flight)
            found: Found = await asyncio.shield(flight.future)
            return found
        except HeadwayError as error:
            error.come_again()  # to this request as well
            raise
        finally:
            flight.waiting -= 1

    def too_late(self, flight: Flight) -> Found:
        """What a call gets whose deadline comes first: the value before where that may be given, else CacheBusy."""
        flight.is_late = True
        rule = flight.want.rule
        if rule.on_error == "stale" and flight.fallback is not None:
            rule.counts.stale += 1
            return flight.fallback
        raise CacheBusy(
            f"{rule.name}: no value within the time that this request has",
            hint="What it loads from is slow, or many load at once; more `loads`, a longer ttl or `stale` may help.",
        )

    async def up(self) -> Link:
        """The link, connected; Away when it cannot be."""
        if not self._link.is_up:
            await self._link.wait_up()
        return self._link

    def may_refresh(self, want: Want) -> bool:
        """Whether a refresh has a point: none is under way in this loop, and none failed a moment ago."""
        return want.key not in self._flights and not self._failures.is_resting(want.key)

    def close(self) -> None:
        """Hear of no changes any more."""
        self._near.off_change(self._changed)
        self._leases.close()

    def given(self, rule: Rule, found: Found) -> Any:
        """The caller's value: the shared object, or one of its own."""
        if rule.copy and found.raw is not None:
            return rule.codec.decode(found.raw)
        return found.value

    # --- loading ------------------------------------------------------------------------------------------------

    def start(self, want: Want, missed: Missed, *, is_refresh: bool = False) -> Flight:
        """A load of the key, which those who come meanwhile find."""
        refuse_loop(want)
        flight = Flight(want, self._loop.create_future(), missed.mark, missed.fallback, is_refresh)
        flight.future.add_done_callback(_seen)
        self._flights[want.key] = flight
        return flight

    def under_way(self, want: Want) -> Flight | None:
        """The load that the call waits for instead of one of its own."""
        flight = self._flights.get(want.key)
        if flight is not None:
            refuse_loop(want)
            want.rule.counts.waits += 1
        return flight

    def refresh(self, want: Want, load: Callable[[], Awaitable[Any]], missed: Missed) -> None:
        """Load in the background what is still given meanwhile."""
        if self.may_refresh(want):
            self._run(self._fly(self.start(want, missed, is_refresh=True), load))

    async def _fly(self, flight: Flight, load: Callable[[], Awaitable[Any]]) -> None:
        if flight.is_refresh:
            leave_request()
        try:
            found = await self.begin(flight)
            if found is not None:
                self.land(flight, found)
                return
            with inside(flight.want):
                value = await load()
        except BaseException as error:
            await self.fail(flight, error)
            return
        await self.end(flight, value)

    async def begin(self, flight: Flight) -> Found | None:
        """Get the right to load. None: load now, then `end` or `fail`; Found: another was quicker."""
        await self._take_slot(flight)
        if flight.is_late and not flight.waiting:
            raise GaveUp
        flight.since = self._near.changes
        try:
            found = await self._take(flight)
        except Away:
            found = None
        if found is None:
            flight.started = now()
        else:
            self._give_slot(flight)
        return found

    async def end(self, flight: Flight, value: Any) -> None:
        """The load gave `value`: store it where nothing overtook it, and give it to all who wait."""
        want, rule = flight.want, flight.want.rule
        load_s = now() - flight.started
        rule.counts.loads += 1
        rule.counts.load_ms_sum += int(load_s * 1000)
        rule.counts.refreshes += flight.is_refresh
        try:
            raw, value = carried(rule.codec, value)
            self._failures.forget(want.key)
            found = Found(value, raw if rule.copy else None)
            await self._store(flight, found, raw, load_s)
        except BaseException as error:
            await self.fail(flight, error, counts=False)
            return
        self.land(flight, found)

    async def fail(self, flight: Flight, error: BaseException, *, counts: bool = True) -> None:
        """The load raised: give the lease back, and tell all who wait."""
        rule = flight.want.rule
        self._give_back(flight)
        if isinstance(error, NotKept | GaveUp):
            self.land(flight, error)
            return
        if counts and flight.started:
            rule.counts.errors += 1
        if isinstance(rule.on_error, int | float) and isinstance(error, Exception) and flight.started:
            self._failures.keep(flight.want.key, error, rule.on_error)
        if flight.is_refresh and isinstance(error, Exception):
            self._failures.rest(flight.want.key)
            _log.warning("%s: the refresh of a value failed: %s: %s", rule.name, type(error).__name__, error)
        if rule.on_error == "stale" and flight.fallback is not None and isinstance(error, Exception):
            rule.counts.stale += 1
            self.land(flight, flight.fallback)
            return
        self.land(flight, error)

    def land(self, flight: Flight, outcome: Found | BaseException) -> None:
        """The flight is over: everybody who waits gets its outcome."""
        self._give_back(flight)
        self._give_slot(flight)
        if self._flights.get(flight.want.key) is flight:
            self._flights.pop(flight.want.key, None)
        if flight.future.done():
            return
        if isinstance(outcome, Found):
            flight.future.set_result(outcome)
        elif isinstance(outcome, asyncio.CancelledError):
            # Those who wait were not cancelled themselves.
            flight.future.set_exception(HeadwayError(f"the load of {flight.want.rule.name} was cancelled"))
        else:
            flight.future.set_exception(outcome)

    async def _take_slot(self, flight: Flight) -> None:
        rule = flight.want.rule
        if is_within(rule.name):
            return  # a load within a load of the same function has its place already
        slot = self._slots.get(rule.name)
        if slot is None:
            slot = self._slots[rule.name] = asyncio.Semaphore(rule.loads_max)
        if self._queued[rule.name] >= WAITERS_MAX:
            raise CacheBusy(
                f"{rule.name}: {WAITERS_MAX} calls wait for a place to load",
                hint="What it loads from does not keep up; more `loads` at once, or a longer ttl, may help.",
            )
        self._queued[rule.name] += 1
        try:
            await slot.acquire()
        finally:
            self._queued[rule.name] -= 1
        flight.slot = slot

    def _give_slot(self, flight: Flight) -> None:
        if flight.slot is not None:
            flight.slot.release()
            flight.slot = None

    async def _take(self, flight: Flight) -> Found | None:
        """The lease of the key, or what another has loaded meanwhile. Raises Away without a server."""
        want = flight.want
        await self.up()
        waits = not (flight.is_refresh and flight.fallback is not None)
        for _ in range(_ROUNDS_MAX):
            taken = await self._leases.take(want.key, want.tags, flight.mark, waits=waits)
            if taken is None:
                return flight.fallback  # somebody else refreshes it
            if isinstance(taken, Lease):
                flight.lease, flight.since = taken, taken.since
                self._leases.keep_alive(taken, lambda: self._give_up(flight))
                return None
            generation, *tags = taken.generations
            if want.rule.own_tags is not None:
                tags = tags + await self.looks.own(want, taken.data, taken.since, asks=True)
            found = self.looks.open(want, taken.data, generation, tags, taken.since)
            if isinstance(found, Found) and found.due is None:
                return found
            flight.mark = taken.data[: HEADER.size]
        raise Away("what others stored never held")

    def _give_up(self, flight: Flight) -> None:
        """It takes too long: later calls wait for it no more."""
        if self._flights.get(flight.want.key) is flight:
            self._flights.pop(flight.want.key, None)

    async def _store(self, flight: Flight, found: Found, raw: bytes, load_s: float) -> None:
        want, rule = flight.want, flight.want.rule
        if len(raw) > VALUE_MAX_BYTES:
            rule.counts.too_large += 1
            if rule.counts.too_large == 1:
                _log.warning("%s: a value of %d bytes is too large to be kept", rule.name, len(raw))
            self._give_back(flight)
            return
        ttl_s, stale_s = rule.times_of(found.value)
        if flight.lease is not None:
            payload, is_compressed = compressed(raw)
            generation, *tags = flight.lease.generations
            times_ms = int(time.time() * 1000), int(ttl_s * 1000), int(load_s * 1000)
            own = rule.own_tags(found.value) if rule.own_tags is not None else ()
            head = pack(Blob(*times_ms, generation, tuple(tags), b"", is_compressed), more_tags=len(own))
            lease, flight.lease = flight.lease, None
            try:
                kept_ms = int((ttl_s + stale_s) * 1000)
                rule.counts.overtaken += not await self._leases.fill(lease, own, head, payload, kept_ms)
                return
            except Away:
                pass
        # Nobody else can be told; kept here, and believed for as long as there is no server to ask.
        self.looks.keep(want, found, len(raw), ttl_s, load_s, b"", flight.since, local=True)

    def _give_back(self, flight: Flight) -> None:
        if flight.lease is not None:
            self._leases.give_back(flight.lease)
            flight.lease = None

    # --- what other threads tell --------------------------------------------------------------------------------

    def _changed(self, name: bytes | None) -> None:
        """A value changed: who comes from now on does not wait for a load that began before."""
        self.looks.changed()
        if name is None:
            self._flights.clear()
        elif name.startswith(b"t:"):
            for key, flight in list(self._flights.items()):
                if name[2:] in flight.want.tags:
                    self._flights.pop(key, None)
        else:
            self._flights.pop(name, None)

    # --- the rest -----------------------------------------------------------------------------------------------

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def load_span(want: Want) -> Span:
    """What a request spends on a value that is not there."""
    return span(f"cache {want.rule.name}", "cache")


def _seen(future: asyncio.Future[Any]) -> None:
    """A failure that nobody waited for was told in the log, or is nobody's."""
    if not future.cancelled():
        future.exception()
