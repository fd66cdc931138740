"""After the switch: takes the link and the copies away; the source stays, behind its fence. Before it: undoes all."""

from __future__ import annotations

import contextlib

import psycopg

from headway.sharding.carrying import Stopped
from headway.sharding.catalog import raise_epoch
from headway.sharding.importing import statements
from headway.sharding.importing.fill import unhindered
from headway.sharding.importing.link import drop_slots, unlink
from headway.sharding.importing.switch import open_source
from headway.sharding.importing.work import Work, ask, rows, run
from headway.sharding.layout import REFERENCE_SCHEMA, identifier
from headway.sharding.move.sessions import Connection
from headway.sharding.publication import drop_publication

_PAUSE_S, _PAUSE_MAX_S = 0.02, 1.0
_LOCK_MS = 100


def clean(work: Work) -> None:
    """Nothing of the import stays on the servers; at the source the fence does, and nothing else."""
    for server in work.servers:
        unlink(work, server)
        _drop_fences(work, work.on(server))
        _drop_copies(work, work.on(server))
    _unlink_source(work)
    run(work.at_source, f"DROP TABLE IF EXISTS {statements.place(work.plan.space, statements.MARKER)}")
    work.advance("done")


def undo(work: Work) -> None:
    """Everything as before the import."""
    take_back(work)
    work.advance("aborted")


def take_back(work: Work) -> None:
    """What has been made, on the servers and at the source."""
    with contextlib.suppress(psycopg.errors.InvalidSchemaName):
        open_source(work)
    with work.catalog.transaction():
        if work.catalog.execute("UPDATE headway.shard_map SET fenced = false WHERE fenced").rowcount:
            raise_epoch(work.catalog)
    for server in work.servers:
        connection = work.on(server)
        unlink(work, server)
        if work.record.facts.get("prepared"):
            _empty(work, server, connection)
        _drop_fences(work, connection)
        _drop_copies(work, connection)
    _unlink_source(work)
    _drop_fences(work, work.at_source)
    run(work.at_source, f"DROP SCHEMA IF EXISTS {identifier(work.plan.space)} CASCADE")


def _unlink_source(work: Work) -> None:
    for server in work.servers:
        drop_slots(work, work.at_source, server)
        drop_publication(work.at_source, work.link(server))


def _empty(work: Work, server: str, connection: Connection) -> None:
    """The shards as they were: empty; reference tables with the rows that they had."""
    plan = work.plan
    if not ask(connection, f"SELECT to_regnamespace(quote_ident({statements.literal(plan.space)})) IS NOT NULL"):
        return  # done already, before a kill
    tables = [table for table in plan.tables if not table.is_reference]
    for schema in work.schemas(server).values():
        with unhindered(plan, connection, [schema]):
            run(connection, f"TRUNCATE {', '.join(statements.place(schema, table.name) for table in tables)}")
    reference = [table for table in plan.tables if table.is_reference]
    if not reference:
        return
    with unhindered(plan, connection, [REFERENCE_SCHEMA]):
        for table in reversed(reference):
            run(connection, f"DELETE FROM {statements.place(REFERENCE_SCHEMA, table.name)}")
        for table in reference:
            kept = statements.place(plan.space, f"kept_{table.name}"[:63])
            run(
                connection,
                f"INSERT INTO {statements.place(REFERENCE_SCHEMA, table.name)} OVERRIDING SYSTEM VALUE "
                f"SELECT * FROM {kept}",
            )


def _drop_fences(work: Work, connection: Connection) -> None:
    """One table at a time, giving way to the app."""
    found = rows(
        connection,
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname = '{statements.FENCE}' AND t.tgparentid = 0",
    )
    for (table,) in found:
        _when_free(work, connection, f"DROP TRIGGER IF EXISTS {statements.FENCE} ON {table}", f"whoever uses {table}")


def _drop_copies(work: Work, connection: Connection) -> None:
    """The copies of the source's tables and our corner, where they are ours."""
    for table in work.plan.tables:
        where = statements.place(work.plan.schema, table.name)
        mark = ask(connection, f"SELECT obj_description(to_regclass({statements.literal(where)}), 'pg_class')")
        if mark == work.mark:
            run(connection, f"DROP TABLE {where} CASCADE")
    run(connection, f"DROP SCHEMA IF EXISTS {identifier(work.plan.space)} CASCADE")
    if work.plan.schema != "public":
        with contextlib.suppress(psycopg.errors.DependentObjectsStillExist):
            run(connection, f"DROP SCHEMA IF EXISTS {identifier(work.plan.schema)}")


def _when_free(work: Work, connection: Connection, statement: str, whom: str) -> None:
    pause_s = _PAUSE_S
    while True:
        with contextlib.suppress(psycopg.errors.LockNotAvailable):
            run(connection, f"SET LOCAL lock_timeout = {_LOCK_MS}; {statement}")
            return
        work.tell(f"waiting for {whom}")
        if work.stop.wait(pause_s):
            raise Stopped
        pause_s = min(_PAUSE_MAX_S, pause_s * 1.5)
