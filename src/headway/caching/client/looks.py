"""Looks for a value: in the process, then at the server.

Who comes first asks the server, who comes meanwhile waits for the same answer. Whether what comes back holds is judged
here, and what holds is kept in the process, if nothing of it changed since it was asked for.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from headway.caching.blob import HEADER, remaining_ms, unpack
from headway.caching.client.failures import Failures
from headway.caching.client.link import Away, Link
from headway.caching.client.near import AWAY_S, Entry, Near, now
from headway.caching.client.tracking import Tracking
from headway.caching.client.want import MISSED, Found, Missed, Want
from headway.caching.codec import plain
from headway.caching.refresh import is_due, window_s

VALUE_MAX_BYTES = 16 * 1024 * 1024
_ENTRY_BYTES = 400  # what an entry takes beside its value

# The value is of other generations than those it was judged by.
OTHER_GENERATION = Missed()


class Looks:
    """Those of one event loop."""

    def __init__(self, prefix: bytes, near: Near, tracking: Tracking, link: Link, failures: Failures) -> None:
        self._prefix = prefix
        self._values = prefix + b"v:"
        self._near = near
        self._tracking = tracking
        self._link = link
        self._failures = failures
        self._loop = asyncio.get_running_loop()
        self._looking: dict[bytes, list[asyncio.Future[Any]]] = {}

    def changed(self) -> None:
        """From any thread: something changed, and who comes from now on asks anew."""
        self._looking.clear()

    async def find(self, want: Want) -> Found | Missed:
        """Look in the process, then at the server. A value that is soon to end, or stale, is due to be loaded again."""
        near, key, link = self._near, want.key, self._link
        entry = near.look(key) if near.entries else None
        if entry is not None and near.believes(entry) and (held := self._judge(want, entry)) is not None:
            return held
        if self._failures.kept:
            self._failures.raise_for(key)
        looking = self._looking.get(key)
        if looking is not None and (told := await self._told(looking)) is not None:
            if isinstance(told, Missed):
                return told
            want.rule.counts.hits_shared += 1
            return Found(told.value, told.raw)  # who asked sees to what is due
        self._looking[key] = looking = []
        found: Found | Missed | None = None
        try:
            if link.wire is None:
                await link.wait_up()
            since = near.changes
            generation = self._tracking.generation
            tags = near.generations_known(want.tags) if want.tags else []
            # What is known here is what the server of the changes told: no judge of what another one holds.
            if generation is None or tags is None or link.server != near.server:
                found = await self._ask(want)
                return found
            data = await link.get(self._values + key)
            if data is None:
                found = MISSED
            elif type(data) is bytes:
                if want.rule.own_tags is not None:
                    tags = tags + await self.own(want, data, since)
                found = self.open(want, data, generation, tags, since)
                if found is OTHER_GENERATION:  # than those that are known here, which may have passed
                    found = await self._ask(want)
            else:
                link.refused(data)
            return found
        except Away:
            want.rule.counts.away += 1
            found = self.without_server(want)
            return found
        finally:
            if self._looking.get(key) is looking:
                self._looking.pop(key, None)  # another thread may have been quicker
            for answer in looking:
                if not answer.done():
                    answer.set_result(found)

    async def _told(self, looking: list[asyncio.Future[Any]]) -> Found | Missed | None:
        """What the one who asks has found; None when that one was cancelled."""
        answer = self._loop.create_future()
        looking.append(answer)
        found: Found | Missed | None = await answer
        return found

    def _judge(self, want: Want, entry: Entry) -> Found | None:
        """What the tier in the process has, if it holds or may still be given."""
        at = now()
        counts = want.rule.counts
        if at < entry.ends:
            counts.hits_near += 1
            if at >= entry.until and is_due(entry.ends - at, entry.load_s, random.random()):
                return Found(entry.value, entry.raw, Missed(entry.mark))
            return Found(entry.value, entry.raw)
        if at < entry.stale_ends:
            counts.stale += 1
            return Found(entry.value, entry.raw, Missed(entry.mark))
        return None

    async def _ask(self, want: Want) -> Found | Missed:
        """The value, together with the generations that are in force."""
        prefix = self._prefix
        since = self._near.changes
        names = [prefix + b"g", self._values + want.key, *(prefix + b"t:" + tag for tag in want.tags)]
        reply = await self._link.call(b"MGET", *names)
        if not isinstance(reply, list):
            self._link.refused(reply)
        generation, data, *tags = reply
        if want.tags and self._link.server == self._near.server:
            self._near.learn(want.tags, tags, since)
        if data is None:
            return MISSED
        if not isinstance(data, bytes):
            self._link.refused(data)
        if want.rule.own_tags is not None:
            tags = tags + await self.own(want, data, since, asks=True)
        found = self.open(want, data, generation, tags, since)
        return Missed(data[: HEADER.size]) if found is OTHER_GENERATION else found

    async def own(self, want: Want, data: bytes, since: int, *, asks: bool = False) -> list[bytes]:
        """The generations of the tags that a stored value names itself; `asks`: the server is asked, whatever is known
        here. Raises Away."""
        tags_of = want.rule.own_tags
        try:
            _stored_ms, _ttl_ms, _load_ms, _generation, its_tags, payload, is_compressed = unpack(data)
            if tags_of is None or len(its_tags) == len(want.tags):
                return []
            tags = tags_of(want.rule.codec.decode(plain(payload, VALUE_MAX_BYTES) if is_compressed else payload))
        except Exception:  # `open` judges it
            return []
        near, is_followed = self._near, self._link.server == self._near.server
        known = near.generations_known(tags) if is_followed and not asks else None
        if known is not None:
            return known
        reply = await self._link.call(b"MGET", *(self._prefix + b"t:" + tag for tag in tags))
        if not isinstance(reply, list):
            self._link.refused(reply)
        if is_followed:
            near.learn(tags, reply, since)
        return reply

    def open(self, want: Want, data: bytes, generation: bytes, tags: list[bytes], since: int) -> Found | Missed:
        """Judge what the server has, and keep it in the process if it holds. OTHER_GENERATION where it is not of the
        generations that are said to be in force."""
        rule = want.rule
        try:
            stored_ms, ttl_ms, load_ms, its_generation, its_tags, payload, is_compressed = unpack(data)
        except ValueError:
            rule.counts.errors += 1
            return Missed(data[: HEADER.size])
        if its_generation != generation or ((want.tags or rule.own_tags is not None) and its_tags != tags):
            return OTHER_GENERATION
        left_ms = remaining_ms(stored_ms, ttl_ms, int(time.time() * 1000))
        if left_ms <= 0 and rule.times is None and left_ms + int(rule.stale_s * 1000) <= 0:
            return Missed(data[: HEADER.size])
        try:
            raw = plain(payload, VALUE_MAX_BYTES) if is_compressed else payload
            value = rule.codec.decode(raw)
        except Exception:  # another version of the app wrote it, or nobody of ours: a load replaces it
            rule.counts.errors += 1
            return Missed(data[: HEADER.size])
        if left_ms <= 0 and left_ms + int(rule.times_of(value)[1] * 1000) <= 0:
            return Missed(data[: HEADER.size])
        found = Found(value, raw if rule.copy else None)
        if left_ms > 0:
            rule.counts.hits_shared += 1
            if self._near.largest_bytes > _ENTRY_BYTES:  # else there is no room for anything
                self.keep(want, found, len(raw), left_ms / 1000, load_ms / 1000, data[: HEADER.size], since)
            return found
        mark = data[: HEADER.size]
        self.keep(want, found, len(raw), left_ms / 1000, load_ms / 1000, mark, since)
        rule.counts.stale += 1
        found.due = Missed(mark, Found(value, found.raw))
        return found

    def keep(
        self,
        want: Want,
        found: Found,
        raw_bytes: int,
        left_s: float,
        load_s: float,
        mark: bytes,
        since: int,
        *,
        local: bool = False,
    ) -> None:
        """Keep a value in the process. `local`: no server has it."""
        rule, copy = want.rule, want.rule.copy
        ttl_s, stale_s = rule.times_of(found.value)
        weight = raw_bytes if copy else rule.scale.weigh(found.value, raw_bytes)
        ends = now() + left_s
        entry = Entry(
            want.key,
            weight + len(want.key) + _ENTRY_BYTES,
            None if copy else found.value,
            found.raw,
            ends,
            ends + stale_s,
            ends - window_s(ttl_s, load_s),
            load_s,
            want.tags if rule.own_tags is None else (*want.tags, *rule.own_tags(found.value)),
            mark,
        )
        local = local or self._link.server != self._near.server
        self._near.put(entry, since, None if copy else want.calls, want.arguments, local=local)

    def without_server(self, want: Want) -> Found | Missed:
        """The server is away: a value holds to the end of its time, if not too long since the server vouched for it."""
        entry = self._near.look(want.key)
        if entry is not None:
            at = now()
            if at < entry.ends and at - entry.seen < AWAY_S:
                want.rule.counts.hits_near += 1
                return Found(entry.value, entry.raw)
            if at < entry.stale_ends and at - entry.seen < AWAY_S:
                return Missed(fallback=Found(entry.value, entry.raw))
        return MISSED
