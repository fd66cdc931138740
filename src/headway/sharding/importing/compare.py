"""Holds the source against the shards: all rows once, and from then on the rows that have changed since.

Nothing is locked for it. What the streams bring after the moment from which all was compared is noted by its key, so a
row that differs is either wrong, or noted and compared again; behind the fence of the switch, for the last time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

import psycopg

from headway.sharding.carrying import GivenUp, NotYet, Stopped
from headway.sharding.importing import statements
from headway.sharding.importing.link import caught_up, check_log
from headway.sharding.importing.nouns import TablePlan
from headway.sharding.importing.partitions import changed_shapes, holders, partition_shapes, partitions_of
from headway.sharding.importing.plan import of_partitions
from headway.sharding.importing.record import advance
from headway.sharding.importing.work import SOURCE, Work, ask_number, rows, run
from headway.sharding.layout import REFERENCE_SCHEMA
from headway.sharding.move.compare import bucket_count, read_apart
from headway.sharding.move.sessions import Connection

_PAGES = 4096  # 32 MiB of a table in a statement
_BATCH = 2000  # changed rows that are compared at once
_ARRIVES_S = 30.0
_NAMED_MAX = 5
_LOOKS, _PAUSE_S = 4, 0.1  # at a row that looks wrong

Buckets = dict[int, tuple[int, int, int]]  # bucket -> rows, hash, other hash
Keys = dict[str, set[str]]  # table -> keys, as JSON


@dataclass(frozen=True, slots=True)
class Wrong:
    """Rows of a table that are not in the shards what they are at the source."""

    table: str
    keys: tuple[str, ...]
    count: int

    @property
    def sentence(self) -> str:
        """For people."""
        more = ", …" if self.count > len(self.keys) else ""
        return f"table {self.table}: {self.count} rows differ ({', '.join(self.keys)}{more})"


def _wrong(found: Keys) -> list[Wrong]:
    return [Wrong(table, tuple(sorted(keys)[:_NAMED_MAX]), len(keys)) for table, keys in sorted(found.items()) if keys]


def refuse(work: Work, found: Keys) -> None:
    """GivenUp when rows differ that nothing will put right."""
    if wrong := _wrong(found):
        told = "the rows of source and shards differ: " + "; ".join(one.sentence for one in wrong)
        hint = "A row without its parent is on no shard. Look at these rows at the source, then import again."
        if changed := _partitions_changed(work):
            told += f"; partitions of {', '.join(changed)} were changed meanwhile"
            hint = (
                "Rows that a partition brings along, or takes with it, are in no log: import again. Until the switch, "
                "insert or delete rows by the table, and attach, detach, drop or truncate partitions that are empty."
            )
        raise GivenUp(told, hint)


def _shapes(work: Work) -> dict[str, str]:
    names = [table.name for table in work.plan.tables if table.is_partitioned]
    return partition_shapes(work.at_source, work.plan.schema, names) if names else {}


def _partitions_changed(work: Work) -> list[str]:
    """Tables whose partitions are not those that were compared, or before that, not those of the beginning."""
    known = work.record.facts.get("partitions")
    return changed_shapes(known if isinstance(known, dict) else {}, _shapes(work))


def check_partitions(work: Work) -> None:
    """NotYet when partitions were changed since all was compared: then all is to be compared again."""
    if changed := _partitions_changed(work):
        compare_whole_again(work, f"partitions of {', '.join(changed)} were changed")


def compare_all(work: Work) -> None:
    """Every row of every table; GivenUp names those that differ. NotYet when it has to be tried again."""
    # What is changed from here on is seen by the difference.
    shapes = _shapes(work)
    if shapes:
        found = partitions_of(work.at_source, work.plan.schema)
        for table in shapes:
            if reasons := of_partitions(table, work.plan.table(table).identity, found.get(table, ())):
                raise GivenUp(reasons[0].message, reasons[0].hint)
    try:
        compared = _compare_all(work)
    except psycopg.errors.UndefinedTable as error:
        if shapes == _shapes(work):
            raise
        raise NotYet("a partition was dropped while its rows were compared: comparing all rows again") from error
    work.advance("verified", rows=compared, partitions=shapes)


def _compare_all(work: Work) -> int:
    if late := caught_up(work, _ARRIVES_S):
        raise GivenUp(f"server {late[0]} does not follow the source", "Its log says why.")
    changed = statements.place(work.plan.space, statements.CHANGED)
    for server in work.servers:
        run(work.on(server), f"DELETE FROM {changed}")
    compared = 0
    unlike: Keys = {}
    try:
        for name in (SOURCE, *work.servers):
            connection = work.connections.second(name)
            run(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            run(connection, "SELECT 1")
        for table in work.plan.tables:
            count, keys = _compare_table(work, table)
            compared += count
            _told(work, compared)
            unlike[table.name] = keys
    finally:
        work.connections.drop_second()
    if late := caught_up(work, _ARRIVES_S):
        raise GivenUp(f"server {late[0]} does not follow the source", "Its log says why.")
    noted = {server: _noted(work, server, unlike) for server in work.servers}
    left = {table: keys - set().union(*(one[table] for one in noted.values())) for table, keys in unlike.items()}
    refuse(work, _examine(work, left))
    return compared


def _told(work: Work, count: int) -> None:
    check_log(work)
    total = int(work.record.number("rows"))
    work.tell("comparing row by row", rows=count, rows_total=max(total, count))
    work.wait(0)


def _noted(work: Work, server: str, unlike: Keys) -> Keys:
    """Those of the keys that have changed meanwhile."""
    found: Keys = {}
    for table, keys in unlike.items():
        place = statements.place(work.plan.space, statements.CHANGED)
        question = f"SELECT key::text FROM {place} WHERE table_name = %s AND key = ANY(%s::jsonb[])"
        answer = work.on(server).execute(question.encode(), (table, sorted(keys)))
        found[table] = {str(row[0]) for row in answer.fetchall()}
    return found


def _places(work: Work, table: TablePlan) -> dict[str, list[str]]:
    """Where a table is: schemas by server."""
    if table.is_reference:
        return {server: [REFERENCE_SCHEMA] for server in work.servers}
    return {server: list(work.schemas(server).values()) for server in work.servers}


def _compare_table(work: Work, table: TablePlan) -> tuple[int, set[str]]:
    source = work.connections.second(SOURCE)
    buckets = bucket_count(sum(one.pages for one in holders(source, work.plan.schema, table.name)))
    stopping = work.stop.is_set
    with ThreadPoolExecutor(len(work.servers) + 1, "headway-compare") as pool:
        ours_later = pool.submit(_digests, source, table, [work.plan.schema], buckets, stopping)
        theirs_later = {
            server: pool.submit(_digests, work.connections.second(server), table, schemas, buckets, stopping)
            for server, schemas in _places(work, table).items()
        }
        ours = ours_later.result()
        theirs = {server: one.result() for server, one in theirs_later.items()}
    count = sum(found[0] for found in ours.values())
    sides = list(theirs.values()) if table.is_reference else [_together(theirs.values())]
    unlike = {bucket for side in sides for bucket in ours.keys() | side.keys() if ours.get(bucket) != side.get(bucket)}
    keys: set[str] = set()
    for bucket in sorted(unlike):
        keys |= _unlike_keys(work, table, buckets, bucket)
    return count, keys


def _together(sides: Any) -> Buckets:
    found: Buckets = {}
    for side in sides:
        for bucket, (count, one, two) in side.items():
            before = found.get(bucket, (0, 0, 0))
            found[bucket] = (before[0] + count, before[1] ^ one, before[2] ^ two)
    return found


def _digests(
    connection: Connection, table: TablePlan, schemas: Sequence[str], buckets: int, stopping: Callable[[], bool]
) -> Buckets:
    found: list[Buckets] = []
    for schema in schemas:
        for holder in holders(connection, schema, table.name):
            # Pages that came after the size was read hold nothing that this snapshot sees, or the last range has it.
            for first in range(0, holder.pages + 1, _PAGES):
                if stopping():
                    raise Stopped
                where = f"t.ctid >= '({first},0)'::tid"
                if first + _PAGES <= holder.pages:
                    where += f" AND t.ctid < '({first + _PAGES},0)'::tid"
                read = read_apart(connection, statements.digest(table, holder.place, buckets, where).encode())
                found.append({bucket: (count, one, two) for bucket, count, one, two in read})
    return _together(found)


def _unlike_keys(work: Work, table: TablePlan, buckets: int, bucket: int) -> set[str]:
    def of(name: str, schemas: Sequence[str]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for schema in schemas:
            statement = statements.rows_of(table, schema, buckets, bucket)
            for key, hashed in read_apart(work.connections.second(name), statement.encode()):
                found[str(key)].append(int(hashed))
        return found

    ours = of(SOURCE, [work.plan.schema])
    sides = [of(server, schemas) for server, schemas in _places(work, table).items()]
    return _differ(ours, sides, table)


def _differ(ours: Mapping[str, list[int]], sides: Sequence[Mapping[str, list[int]]], table: TablePlan) -> set[str]:
    """Keys whose rows are not on each side (of a reference table), or not on exactly one, as they are at the source."""
    if not table.is_reference:
        together: dict[str, list[int]] = defaultdict(list)
        for side in sides:
            for key, hashes in side.items():
                together[key] += hashes
        sides = [together]
    return {
        key for side in sides for key in ours.keys() | side.keys() if list(ours.get(key, ())) != list(side.get(key, ()))
    }


# -- what has changed since -------------------------------------------------------------------------------------------


def _changed(work: Work, limit: int) -> tuple[dict[str, int], Keys, bool]:
    """The oldest notes of every server: the last one's number, the keys, and whether a whole table was emptied."""
    place = statements.place(work.plan.space, statements.CHANGED)
    upto: dict[str, int] = {}
    keys: Keys = {}
    emptied = False
    for server in work.servers:
        found = rows(work.on(server), f"SELECT id, table_name, key::text FROM {place} ORDER BY id LIMIT {limit}")
        upto[server] = int(found[-1][0]) if found else 0  # type: ignore[call-overload]
        for _, table, key in found:
            if key is None:
                emptied = True
            else:
                keys.setdefault(str(table), set()).add(str(key))
    return upto, keys, emptied


def _forget(work: Work, upto: Mapping[str, int]) -> None:
    place = statements.place(work.plan.space, statements.CHANGED)
    for server, number in upto.items():
        if number:
            run(work.on(server), f"DELETE FROM {place} WHERE id <= {number}")


def _hashes(work: Work, name: str, table: TablePlan, schemas: Sequence[str], keys: set[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    if not keys or not schemas:
        return found
    wanted = json.dumps([json.loads(key) for key in sorted(keys)])
    for key, hashed in rows(work.connections.at(name), statements.rows_by_key(table, schemas, wanted)):
        found[str(key)].append(int(hashed))  # type: ignore[call-overload]
    return found


def _of_source(work: Work, keys: Keys) -> dict[str, dict[str, list[int]]]:
    return {
        table: _hashes(work, SOURCE, work.plan.table(table), [work.plan.schema], wanted)
        for table, wanted in keys.items()
    }


def _of_shards(work: Work, keys: Keys) -> dict[str, list[dict[str, list[int]]]]:
    """By table, for each server."""

    def on(server: str) -> dict[str, dict[str, list[int]]]:
        return {
            table: _hashes(work, server, work.plan.table(table), _places(work, work.plan.table(table))[server], wanted)
            for table, wanted in keys.items()
        }

    answers = work.each(on)
    return {table: [answers[server][table] for server in answers] for table in keys}


def compare_changed(work: Work) -> bool:
    """Compare some of the rows that have changed, while more are; whether none is left. GivenUp when one differs."""
    upto, keys, emptied = _changed(work, _BATCH)
    if emptied:
        compare_whole_again(work, "a table was emptied at the source")
    if not keys:
        return True
    refuse(work, _examine(work, keys))
    _forget(work, upto)
    return False


def _examine(work: Work, keys: Keys) -> Keys:
    """Those of the keys whose rows are wrong. What only looked so is noted, to be compared again.

    Source and servers are not seen at one moment: a row may have changed in between, may be on its way from one server
    to another, or may have arrived before its commit is seen at the source. What is wrong stays so, unchanged.
    """
    suspects, seen = keys, _of_source(work, keys)
    unlike: Keys = {}
    for attempt in range(_LOOKS):
        work.wait(_PAUSE_S * attempt)
        if late := caught_up(work, _ARRIVES_S):
            raise NotYet(f"server {late[0]} is behind the source by more than {_ARRIVES_S:.0f} s")
        theirs, now = _of_shards(work, suspects), _of_source(work, suspects)
        differ = {table: _differ(now[table], theirs[table], work.plan.table(table)) for table in suspects}
        if not attempt:
            unlike = differ
        suspects = {
            table: {key for key in keys if now[table].get(key) == seen[table].get(key)}
            for table, keys in differ.items()
        }
        if not any(suspects.values()):
            break
    _note_again(work, {table: keys - suspects.get(table, set()) for table, keys in unlike.items()})
    return suspects


def _note_again(work: Work, keys: Keys) -> None:
    place = statements.place(work.plan.space, statements.CHANGED)
    server = next(iter(work.servers))
    for table, wanted in keys.items():
        if wanted:
            question = f"INSERT INTO {place} (table_name, key) SELECT %s, unnest(%s::jsonb[])"
            work.on(server).execute(question.encode(), (table, sorted(wanted)))


def compare_whole_again(work: Work, reason: str) -> NoReturn:
    """It is not known which rows have changed, so all are compared as at the beginning."""
    work.record = advance(work.catalog, work.record, "filled")
    raise NotYet(f"{reason}: comparing all rows again")


def compare_last(work: Work) -> int:
    """Behind the fence, when all has arrived: the rows that have changed since. GivenUp when one differs, NotYet when
    they are too many for a pause, or partitions were changed. How many there were."""
    if changed := _partitions_changed(work):
        raise NotYet(f"partitions of {', '.join(changed)} were changed")
    _, keys, emptied = _changed(work, work.bounds.compared_max + 1)
    count = sum(map(len, keys.values()))
    if emptied or count > work.bounds.compared_max:
        raise NotYet(f"more than {work.bounds.compared_max} rows have changed in the last moment")
    ours, theirs = _of_source(work, keys), _of_shards(work, keys)
    refuse(work, {table: _differ(ours[table], theirs[table], work.plan.table(table)) for table in keys})
    return count


def noted(work: Work) -> int:
    """How many notes there are, of all servers."""
    place = statements.place(work.plan.space, statements.CHANGED)
    return sum(ask_number(work.on(server), f"SELECT count(*) FROM {place}") for server in work.servers)
