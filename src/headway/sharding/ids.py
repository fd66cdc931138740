"""Ids that are unique over all shards: numbers of 64 bits that say where their row is, and UUIDs in the order of time.

An id of 64 bits is 41 bits of milliseconds since 2025, 12 bits of slot, 10 bits of sequence: positive, good until 2094,
and later ones of a shard have a greater time and sequence. It is made by the shard's PostgreSQL (`id_function_sql`) and
not by the app, for processes on several machines cannot agree on 10 bits without asking somebody. Time and sequence are
one counter there, kept in a sequence: the next is the last plus one, or the clock where that is ahead. So two ids are
never equal, not when more than 1,024 are drawn in a millisecond, nor when the clock is set back, nor when the shard
moves to a server whose clock is behind: a move takes the sequence along, and from its fence on none is drawn where the
shard was. Taking the clock and `nextval` modulo 1,024,
as is often done, is unique in none of these cases.

The slot is that of the key of the row, not the shard's number: it is of the largest number of shards that doubling
leads to, so that it tells the right shard after every doubling. An id finds its row without the key. For that the
function is given the key, and cannot be a column's DEFAULT, which knows no other column; `id_trigger_sql` fills it in.

An id of a row is not to be its own sharding key: a key finds its shard by its hash, whatever its bits say. What needs a
key before it has a shard (a new customer) takes `uuid7`, which needs nobody; its order does no harm, for it is hashed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from headway.model.sharding import FENCE, FENCED, SHARDS_MAX, KeyKind, TableKey
from headway.sharding.keys import SQL_TYPE, shard_sql
from headway.sharding.layout import identifier

EPOCH_MS = 1_735_689_600_000  # 2025-01-01T00:00:00Z
_SLOT_BITS, _SEQUENCE_BITS = 12, 10
_TIME_BITS = 41
SEQUENCE = "headway_ids"
FUNCTION = "headway_next_id"
TRIGGER = "headway_next_id"  # triggers fire in the order of their names: this one after that which finds the key
# One for all of ours, so that they are told apart from an app's advisory locks; the second number is the sequence's.
_LOCK = 1_214_600_009
_UUID_RANDOM_BITS = 74


def slots(shards: int) -> int:
    """How many slots the 12 bits of an id tell apart: the shards there will be after doubling as often as possible."""
    if not 1 <= shards <= SHARDS_MAX:
        raise ValueError(f"{shards} shards: there are 1 to {SHARDS_MAX}")
    while shards * 2 <= SHARDS_MAX:
        shards *= 2
    return shards


def _whole(number: int) -> int:
    if not 0 <= number < 1 << 63:
        raise ValueError(f"{number} is no id: ids are positive and have 63 bits")
    return number


def slot_of_id(number: int) -> int:
    """The slot of the key of the row that this is the id of."""
    return _whole(number) >> _SEQUENCE_BITS & (1 << _SLOT_BITS) - 1


def shard_of_id(number: int, shards: int) -> int:
    """The shard that holds the row with this id; also of an id that was made before the shards were doubled."""
    slot = slot_of_id(number)
    if slot >= slots(shards):
        raise ValueError(f"{number} is no id of a database with {shards} shards")
    return slot % shards


def time_of_id(number: int) -> int:
    """When the id was made, in milliseconds of Unix time; later than that where ids were drawn faster than 1,024/ms."""
    return (_whole(number) >> _SLOT_BITS + _SEQUENCE_BITS) + EPOCH_MS


def id_function_sql(schema: str, shard: int, shards: int, kind: KeyKind) -> str:
    """The SQL that creates `headway_next_id(key)` in a shard's schema; again after a doubling.

    The app's role needs USAGE and UPDATE on the sequence. Drawing an id outside a transaction that writes costs a
    commit of its own. The lock is held for microseconds and never over a statement's end; without it, one session could
    set the counter back to the clock behind another that has just drawn ahead of it.
    """
    place, argument = identifier(schema), SQL_TYPE[kind]
    counter = f"{place}.{SEQUENCE}"
    most = (1 << _TIME_BITS + _SEQUENCE_BITS) - 1
    mask = (1 << _SEQUENCE_BITS) - 1
    return f"""
CREATE SEQUENCE IF NOT EXISTS {counter} MAXVALUE {most};
CREATE OR REPLACE FUNCTION {place}.{FUNCTION}(key {argument}) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $headway$
DECLARE
  counter constant regclass := {_literal(counter)}::regclass;
  slot constant bigint := {shard_sql("key", slots(shards), kind)};
  clock bigint;
  drawn bigint;
BEGIN
  IF key IS NULL OR slot % {shards} <> {shard} THEN
    RAISE check_violation USING MESSAGE = 'the key belongs to another shard', CONSTRAINT = 'headway_shard';
  END IF;
  PERFORM pg_advisory_lock({_LOCK}, counter::oid::int);
  BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_proc WHERE proname = '{FENCE}' AND prosrc LIKE '%RAISE%'
                  AND pronamespace = {_literal(place)}::regnamespace) THEN
      RAISE EXCEPTION USING ERRCODE = '{FENCED}', MESSAGE = 'the shard is being moved to another server';
    END IF;
    drawn := nextval(counter);
    clock := (floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - {EPOCH_MS}) << {_SEQUENCE_BITS};
    IF drawn < clock THEN
      drawn := setval(counter, clock);
    END IF;
  EXCEPTION WHEN OTHERS OR query_canceled THEN
    PERFORM pg_advisory_unlock({_LOCK}, counter::oid::int);
    RAISE;
  END;
  PERFORM pg_advisory_unlock({_LOCK}, counter::oid::int);
  RETURN ((drawn >> {_SEQUENCE_BITS}) << {_SLOT_BITS + _SEQUENCE_BITS}) | (slot << {_SEQUENCE_BITS}) | (drawn & {mask});
END $headway$;
"""


def draws_have_ended_sql(schema: str) -> str:
    """The SQL that waits, behind the fence, for the draws that did not see it yet; of no effect without ids."""
    counter = f"pg_catalog.to_regclass({_literal(f'{identifier(schema)}.{SEQUENCE}')})::oid::int"
    return f"SELECT pg_catalog.pg_advisory_xact_lock({_LOCK}, {counter})"


def id_trigger_sql(schema: str, table: str, column: str, key: str) -> str:
    """The SQL that fills in `column` of a new row that is given without it, from its key. It may be run again."""
    place, name = identifier(schema), identifier(f"headway_id_{table}"[:63])
    new_id, new_key = f"NEW.{identifier(column)}", f"NEW.{identifier(key)}"
    return f"""
CREATE OR REPLACE FUNCTION {place}.{name}() RETURNS trigger LANGUAGE plpgsql AS $headway$
BEGIN
  {new_id} := {place}.{FUNCTION}({new_key});
  RETURN NEW;
END $headway$;
CREATE OR REPLACE TRIGGER {TRIGGER} BEFORE INSERT ON {place}.{identifier(table)}
  FOR EACH ROW WHEN ({new_id} IS NULL) EXECUTE FUNCTION {place}.{name}();
COMMENT ON TRIGGER {TRIGGER} ON {place}.{identifier(table)} IS {_literal(column)};
"""


def ids_sql(schema: str, shard: int, shards: int, ids: Mapping[str, str], keys: Mapping[str, TableKey]) -> str:
    """The SQL that has a shard fill in the declared columns of those of its tables that have a key."""
    if not ids or not keys:
        return ""
    kind = next(iter(keys.values())).kind
    triggers = [id_trigger_sql(schema, table, column, keys[table].column) for table, column in ids.items()]
    return id_function_sql(schema, shard, shards, kind) + "".join(triggers)


# Which tables of which schemas fill in their ids: one row each, with the column's name.
FILLED = f"""
SELECT n.nspname, c.relname, obj_description(t.oid, 'pg_trigger') FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.tgname = '{TRIGGER}' AND n.nspname = ANY(%s)
"""


def no_id_sql(schema: str, table: str) -> str:
    """The SQL that leaves a table's column alone from now on."""
    place = identifier(schema)
    return f"""
DROP TRIGGER IF EXISTS {TRIGGER} ON {place}.{identifier(table)};
DROP FUNCTION IF EXISTS {place}.{identifier(f"headway_id_{table}"[:63])}();
"""


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def uuid7(unix_ms: int, random_bits: int) -> uuid.UUID:
    """A UUID of version 7 (RFC 9562): 48 bits of time, 74 of chance."""
    if not 0 <= unix_ms < 1 << 48:
        raise ValueError(f"{unix_ms} ms does not fit in the 48 bits of a UUID's time")
    if not 0 <= random_bits < 1 << _UUID_RANDOM_BITS:
        raise ValueError("a UUID of version 7 holds 74 random bits")
    high, low = random_bits >> 62, random_bits & (1 << 62) - 1
    return uuid.UUID(int=unix_ms << 80 | 7 << 76 | high << 64 | 0b10 << 62 | low)


def time_of_uuid7(value: uuid.UUID) -> int:
    """When it was made, in milliseconds of Unix time."""
    if value.version != 7:
        raise ValueError(f"{value} is no UUID of version 7")
    return value.int >> 80


class Uuid7s:
    """UUIDs of version 7 that grow within this process, also within a millisecond and when the clock goes back.

    The later ones of a millisecond are a random step above the one before (RFC 9562, 6.2, method 2): they grow, and
    cannot be guessed. `random_bits(n)` gives n bits that cannot be guessed, `lock` is one for all threads that draw.
    """

    _STEP_BITS = 32

    def __init__(
        self, now_ms: Callable[[], int], random_bits: Callable[[int], int], lock: AbstractContextManager[object]
    ) -> None:
        self._now_ms, self._random_bits, self._lock = now_ms, random_bits, lock
        self._last_ms = -1
        self._last_bits = 0

    def next(self) -> uuid.UUID:
        """The next one, greater than all before."""
        with self._lock:
            now_ms = self._now_ms()
            if now_ms > self._last_ms:
                # The topmost bit is free, so that the steps of a millisecond have room.
                self._last_ms, self._last_bits = now_ms, self._random_bits(_UUID_RANDOM_BITS - 1)
            else:
                self._last_bits += 1 + self._random_bits(self._STEP_BITS)
                if self._last_bits >= 1 << _UUID_RANDOM_BITS:
                    self._last_ms, self._last_bits = self._last_ms + 1, self._random_bits(_UUID_RANDOM_BITS - 1)
            return uuid7(self._last_ms, self._last_bits)
