"""Ids that sort by time: 64-bit ones that carry the place of their key, and UUIDs of version 7..

A 64-bit id has 41 bits of milliseconds since 2025, 12 bits of the slot of its key, and 10 bits of a number that a
sequence of the shard counts (the scheme that Instagram described in 2012): it is made by the shard itself, so two
processes cannot make the same one. The slot is the shard of 4,096, of which the shard of a smaller power of two is the
remainder; so an id stays true when shards are doubled.

The id finds the shard of its row, but it is no sharding key: rows that belong together need the same key.
"""

from __future__ import annotations

import datetime
import threading
import uuid
from collections.abc import Callable

from headway.model.sharding import SHARDS_MAX, KeyKind
from headway.sharding.keys import shard_of, shard_sql

EPOCH_MS = 1_735_689_600_000  # 2025-01-01, UTC
_SLOT_BITS, _COUNT_BITS = 12, 10
_MS_MAX = (1 << 41) - 1


def compose_id(unix_ms: int, slot: int, count: int) -> int:
    """An id of its parts; ValueError where one does not fit."""
    ms = unix_ms - EPOCH_MS
    if not 0 <= ms <= _MS_MAX:
        raise ValueError("the time is before 2025 or after 2094")
    if not 0 <= slot < SHARDS_MAX:
        raise ValueError(f"slot {slot} is not one of 0 to {SHARDS_MAX - 1}")
    return ms << (_SLOT_BITS + _COUNT_BITS) | slot << _COUNT_BITS | (count & ((1 << _COUNT_BITS) - 1))


def slot_of_id(number: int) -> int:
    """The slot that an id carries, of 4,096."""
    return number >> _COUNT_BITS & (SHARDS_MAX - 1)


def shard_of_id(number: int, shards: int) -> int:
    """The shard of the row with this id. ValueError where the number of shards is no power of two."""
    if shards & (shards - 1):
        raise ValueError(f"an id finds its shard only where their number is a power of two, which {shards} is not")
    return slot_of_id(number) % shards


def time_of_id(number: int) -> datetime.datetime:
    """When an id was made, in UTC."""
    ms = (number >> (_SLOT_BITS + _COUNT_BITS)) + EPOCH_MS
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)


def slot_of_key(key: object, kind: KeyKind) -> int:
    """The slot of a sharding key: its shard of 4,096."""
    return shard_of(key, SHARDS_MAX, kind)


def create_next_id(schema: str, kind: KeyKind) -> str:
    """The SQL of a shard's `headway_next_id(key)`, for `DEFAULT` and `INSERT`; its sequence moves along with the shard.

    A thousand ids a millisecond and shard; the number goes on within the next millisecond, so more than that in one
    would repeat and is refused by the primary key, never given twice.
    """
    place = '"' + schema.replace('"', '""') + '"'
    slot = shard_sql("key", SHARDS_MAX, kind)
    types = {"int": "bigint", "text": "text", "uuid": "uuid"}
    return f"""
CREATE SEQUENCE IF NOT EXISTS {place}.headway_ids AS bigint CYCLE;
CREATE OR REPLACE FUNCTION {place}.headway_next_id(key {types[kind]}) RETURNS bigint LANGUAGE sql VOLATILE AS $headway$
  SELECT (floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - {EPOCH_MS}) << {_SLOT_BITS + _COUNT_BITS}
       | ({slot})::bigint << {_COUNT_BITS}
       | nextval('{place}.headway_ids') & {(1 << _COUNT_BITS) - 1}
$headway$;
"""


def uuid7(unix_ms: int, random_bits: int) -> uuid.UUID:
    """A UUID of version 7 (RFC 9562, 5.7) from its time and 74 random bits."""
    if not 0 <= unix_ms < 1 << 48:
        raise ValueError("the time does not fit in 48 bits")
    high, low = random_bits >> 62 & 0xFFF, random_bits & ((1 << 62) - 1)
    return uuid.UUID(int=unix_ms << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)


class Uuid7:
    """UUIDs of version 7 that grow within the process, also within a millisecond and when the clock goes back.

    As RFC 9562, 6.2 method 2: the random part is counted up by chance while the time stays.
    """

    def __init__(self, now_ms: Callable[[], int], random_bits: Callable[[int], int]) -> None:
        self._now_ms, self._random_bits = now_ms, random_bits
        self._ms, self._bits = -1, 0
        self._lock = threading.Lock()

    def __call__(self) -> uuid.UUID:
        """The next one."""
        with self._lock:
            now_ms = self._now_ms()
            if now_ms > self._ms:
                # Room above, so that counting up does not overflow within the millisecond.
                self._ms, self._bits = now_ms, self._random_bits(73)
            else:
                self._bits += 1 + self._random_bits(32)
                if self._bits >> 74:
                    self._ms, self._bits = self._ms + 1, self._random_bits(73)
            return uuid7(self._ms, self._bits)
