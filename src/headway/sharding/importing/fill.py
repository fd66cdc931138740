"""Fills the shards from the copies, all rows of a table and shard at once; then triggers carry each change on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg

from headway.sharding.carrying import GivenUp
from headway.sharding.importing import statements
from headway.sharding.importing.carriers import carriers
from headway.sharding.importing.link import check_log, still
from headway.sharding.importing.nouns import Plan
from headway.sharding.importing.work import Work, ask, ask_number, run
from headway.sharding.layout import REFERENCE_SCHEMA, identifier
from headway.sharding.move.sessions import Connection

# Numbers that the source may still give away before the switch.
SEQUENCE_GAP = 100_000
_SEQUENCES = """
SELECT n.nspname::text, t.relname::text, a.attname::text, format('%%I.%%I', sn.nspname, s.relname)
  FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_namespace sn ON sn.oid = s.relnamespace
  JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
  JOIN pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
   AND n.nspname = ANY(%s) AND t.relname = ANY(%s) ORDER BY 1, 2, 3
"""


def fill(work: Work) -> None:
    """Every shard has its rows afterwards, and the streams go on."""
    still(work)  # a carrier that was killed may have let them go on
    began_s = time.time()
    done = dict.fromkeys(work.servers, 0)
    total = int(work.record.number("rows_total"))

    def on(server: str) -> None:
        connection = work.on(server)
        for table in work.plan.tables:
            run(connection, f"ANALYZE {statements.place(work.plan.schema, table.name)}")
        # Reference tables first, and for that no rows that refer to them: not everybody may leave their keys unchecked.
        for schema in work.schemas(server).values():
            _empty_shard(work.plan, connection, schema)
        _fill_reference(work.plan, connection)
        for shard, schema in work.schemas(server).items():
            if work.interrupted():
                return
            done[server] += _fill_shard(work.plan, connection, shard, schema)
            # What carries changes on is planned once, by these numbers.
            own = [table.name for table in work.plan.tables if not table.is_reference]
            run(connection, f"ANALYZE {', '.join(statements.place(schema, name) for name in own)}")
        with connection.transaction():
            run(connection, f"DELETE FROM {statements.place(work.plan.space, statements.CHANGED)}")
            run(connection, carriers(work.plan, work.map.on(server)))

    _watch(work, lambda: work.each(on), lambda: (sum(done.values()), total, began_s))
    work.wait(0)
    set_sequences(work)
    for server in work.servers:
        name = identifier(work.link(server))
        # From here on a crash of a server costs nothing: what it has lost is sent again.
        run(work.on(server), f"ALTER SUBSCRIPTION {name} SET (synchronous_commit = 'off')")
        run(work.on(server), f"ALTER SUBSCRIPTION {name} ENABLE")
    work.advance("filled", fill_s=round(time.time() - began_s, 3), rows=sum(done.values()))


def _watch(work: Work, doing: Callable[[], object], at: Callable[[], tuple[int, int, float]]) -> None:
    """Do it in a thread, and tell meanwhile how far it is and what the source keeps."""
    with ThreadPoolExecutor(1, "headway-fill") as thread:
        running = thread.submit(doing)
        while not running.done():
            check_log(work)
            arrived, total, began_s = at()
            rate = arrived / max(0.001, time.time() - began_s)
            work.tell("filling the shards", rows=arrived, rows_total=max(total, arrived), rows_per_s=rate)
            with contextlib.suppress(TimeoutError):
                running.exception(timeout=0.1)
        running.result()


@contextlib.contextmanager
def unhindered(plan: Plan, connection: Connection, schemas: list[str]) -> Iterator[None]:
    """A transaction in which neither triggers nor foreign keys of the shards get in the way of rows that were checked
    at the source. Who may not switch them off (no superuser) fills parents first, without triggers of the user."""
    with connection.transaction():
        run(connection, "SET LOCAL headway.importing = 'on'")
        try:
            with connection.transaction():
                run(connection, "SET LOCAL session_replication_role = replica")
            apart = []
        except psycopg.errors.InsufficientPrivilege:
            apart = [
                statements.place(schema, table.name)
                for schema in schemas
                for table in plan.tables
                if table.is_reference == (schema == REFERENCE_SCHEMA)
            ]
        for where in apart:
            run(connection, f"ALTER TABLE {where} DISABLE TRIGGER USER")
        yield
        for where in apart:
            run(connection, f"ALTER TABLE {where} ENABLE TRIGGER USER")


def _empty_shard(plan: Plan, connection: Connection, schema: str) -> None:
    """What an attempt that was cut off has brought."""
    names = ", ".join(statements.place(schema, table.name) for table in plan.tables if not table.is_reference)
    with unhindered(plan, connection, [schema]):
        run(connection, f"TRUNCATE {names}")


def _fill_shard(plan: Plan, connection: Connection, shard: int, schema: str) -> int:
    """One shard, whole or not at all."""
    count = 0
    tables = [table for table in plan.tables if not table.is_reference]
    with unhindered(plan, connection, [schema]):
        for table in tables:
            count += connection.execute(statements.fill(plan, table, shard).encode()).rowcount
    return count


def _fill_reference(plan: Plan, connection: Connection) -> None:
    tables = [table for table in plan.tables if table.is_reference]
    if not tables:
        return
    with unhindered(plan, connection, [REFERENCE_SCHEMA]):
        for table in reversed(tables):
            run(connection, f"DELETE FROM {statements.place(REFERENCE_SCHEMA, table.name)}")
        for table in tables:
            run(connection, statements.fill_reference(plan, table))


def set_sequences(work: Work) -> None:
    """Numbers that shards give away begin beyond the source's, and no two shards give the same: each goes in steps of
    as many as there are shards."""
    plan = work.plan
    names = [table.name for table in plan.tables if not table.is_reference]
    begins: dict[str, int] = {}
    for server in work.servers:
        connection = work.on(server)
        by_schema = {schema: shard for shard, schema in work.schemas(server).items()}
        found = connection.execute(_SEQUENCES.encode(), (list(by_schema), names)).fetchall()
        lines = []
        for schema, table, column, sequence in found:
            known = f"{table}.{column}"
            if known not in begins:
                begins[known] = _first_free(work, str(table), str(column))
            first = begins[known] + by_schema[str(schema)]
            lines.append(f"ALTER SEQUENCE {sequence} INCREMENT BY {plan.shards} RESTART WITH {first}")
        if lines:
            try:
                with connection.transaction():
                    run(connection, "; ".join(lines))
            except psycopg.errors.InvalidParameterValue as error:
                told = error.diag.message_primary or str(error)
                raise GivenUp(f"the shards cannot go on with the source's numbers: {told}", "Use bigint.") from error
    work.note(sequences=begins)


def _first_free(work: Work, table: str, column: str) -> int:
    """A multiple of the number of shards, beyond all that the source has given away, and will for a while."""
    last = last_number(work, table, column, look=True)
    step = work.plan.shards
    return (last + SEQUENCE_GAP) // step * step + step


def last_number(work: Work, table: str, column: str, *, look: bool) -> int:
    """The highest number that the source has given away, by its sequence, and with `look` by its rows as well."""
    source, where = work.at_source, statements.place(work.plan.schema, table)
    found = next((one for one in work.plan.table(table).columns if one.name == column), None)
    if found is None:
        return 0
    sequence = ask(
        source,
        f"SELECT pg_get_serial_sequence({statements.literal(where)}, {statements.literal(column)})",
    )
    known = [0]
    if sequence is not None:
        known.append(ask_number(source, f"SELECT last_value FROM {sequence}"))
    if look:
        known.append(ask_number(source, f"SELECT max({identifier(column)}) FROM {where}"))
    return max(known)


def outrun(work: Work, *, look: bool) -> bool:
    """Whether the source has given away numbers that the shards would give again."""
    begins = work.record.facts.get("sequences")
    if not isinstance(begins, dict):
        return False
    named = [(*name.split(".", 1), int(first)) for name, first in begins.items()]
    return any(last_number(work, table, column, look=look) >= first for table, column, first in named)
