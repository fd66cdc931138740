"""Compares the rows of both sides, each as of one moment: by bucket first, then key by key where buckets differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from headway.sharding.carrying import Stopped
from headway.sharding.move.nouns import Table
from headway.sharding.move.sessions import Connection, number
from headway.sharding.move.statements import digest, rows_of

# 32 MiB of a table in a statement: short enough to stop in between, long enough that the round trip does not count.
_PAGES = 4096
_BUCKETS_MAX = 1024
_PAGES_PER_BUCKET = 16
_NAMED_MAX = 5
_CIRCLE = 1 << 32

Buckets = dict[int, tuple[int, int, int]]  # bucket -> rows, hash, other hash


@dataclass(frozen=True, slots=True)
class Difference:
    """How a table differs: keys of some of the rows, and how many of each kind there are."""

    table: str
    missing: int  # on the target
    extra: int
    different: int
    keys: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """For people."""
        counts = [(self.missing, "missing"), (self.extra, "extra"), (self.different, "different")]
        told = ", ".join(f"{count} {word}" for count, word in counts if count)
        return f"table {self.table}: {told} (keys {', '.join(self.keys)})"


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison found. `rows` are the app's, those of the source."""

    rows: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Reader:
    """One side: a connection whose transaction holds the snapshot, and what the schema is called there."""

    connection: Connection
    schema: str


def compare(
    source: Reader,
    target: Reader,
    tables: Sequence[Table],
    stopping: Callable[[], bool],
    told: Callable[[int], None],
    *,
    since: str = "",
) -> Compared:
    """Row by row, both sides at once. `told` hears how many rows were compared so far; Stopped when `stopping`.

    `since`: the target is written to again since that snapshot. Then its rows that are newer are left out, and what
    it has not may have been deleted.
    """
    rows = 0
    differences = []
    with ThreadPoolExecutor(1, "headway-compare") as other:
        for table in tables:
            if not table.holds_rows:
                continue
            pages = number(
                source.connection, "SELECT relpages FROM pg_class WHERE oid = %s::regclass", (_name(source, table),)
            )
            buckets = bucket_count(pages)
            theirs_later = other.submit(_digests, target, table, buckets, stopping)
            ours = _digests(source, table, buckets, stopping)
            theirs = theirs_later.result()
            if table.is_apps:
                rows += sum(count for count, _, _ in ours.values())
            unlike = {bucket for bucket in ours.keys() | theirs.keys() if ours.get(bucket) != theirs.get(bucket)}
            if unlike and (difference := _difference(source, target, table, buckets, unlike, since)):
                differences.append(difference)
            told(rows)
    return Compared(rows, tuple(differences))


def bucket_count(pages: int) -> int:
    """A power of two: about 16 pages a bucket, so that a difference is looked for among some thousand rows."""
    wanted = max(1, min(_BUCKETS_MAX, pages // _PAGES_PER_BUCKET))
    return 1 << (wanted - 1).bit_length()


def _name(reader: Reader, table: Table) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in (reader.schema, table.name))


def _digests(reader: Reader, table: Table, buckets: int, stopping: Callable[[], bool]) -> Buckets:
    pages = number(
        reader.connection,
        "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int",
        (_name(reader, table),),
    )
    found: Buckets = {}
    # Pages that came after the size was read hold nothing that this snapshot sees, or the last range has it.
    for first in range(0, pages + 1, _PAGES):
        if stopping():
            raise Stopped
        where = sql.SQL("ctid >= {}::tid").format(sql.Literal(f"({first},0)"))
        if first + _PAGES <= pages:
            where = sql.SQL("{} AND ctid < {}::tid").format(where, sql.Literal(f"({first + _PAGES},0)"))
        for bucket, count, one, two in read_apart(reader.connection, digest(reader.schema, table, buckets, where)):
            before = found.get(bucket, (0, 0, 0))
            found[bucket] = (before[0] + count, before[1] ^ one, before[2] ^ two)
    return found


def read_apart(connection: Connection, statement: sql.Composed | bytes) -> list[tuple[Any, ...]]:
    """Within a savepoint, so that no lock on the table outlives the statement: a TRUNCATE of the app need not wait."""
    connection.execute("SAVEPOINT headway_read")
    rows = connection.execute(statement).fetchall()
    connection.execute("ROLLBACK TO SAVEPOINT headway_read")
    return rows


def _difference(
    source: Reader, target: Reader, table: Table, buckets: int, unlike: set[int], since: str
) -> Difference | None:
    ours, theirs = (_keys(reader, table, buckets, unlike) for reader in (source, target))
    missing = sorted(ours.keys() - theirs.keys())
    extra = sorted(theirs.keys() - ours.keys())
    different = sorted(key for key in ours.keys() & theirs.keys() if ours[key][0] != theirs[key][0])
    if since:
        missing = []
        extra = [key for key in extra if not is_newer(theirs[key][1], since)]
        different = [key for key in different if not is_newer(theirs[key][1], since)]
    if not (missing or extra or different):
        return None
    named = tuple((missing + extra + different)[:_NAMED_MAX])
    return Difference(table.name, len(missing), len(extra), len(different), named)


def _keys(reader: Reader, table: Table, buckets: int, unlike: set[int]) -> Mapping[str, tuple[int, int]]:
    rows = read_apart(reader.connection, rows_of(reader.schema, table, buckets, unlike))
    return {str(key): (hashed, xmin) for key, hashed, xmin in rows}


def is_newer(xmin: int, snapshot: str) -> bool:
    """Whether a row's transaction was not yet committed in a snapshot, as `pg_current_snapshot()` prints it.

    Numbers of transactions on rows have 32 bits and go round: of two the later one is less than half the circle ahead.
    """
    _, last, running = snapshot.split(":")
    if (xmin - int(last)) % _CIRCLE < _CIRCLE // 2:
        return True
    return xmin in {int(number) % _CIRCLE for number in running.split(",") if number}
