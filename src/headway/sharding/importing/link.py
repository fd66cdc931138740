"""Prepares both sides (fences on the shards, tables to copy into), links them, and waits until every row is there."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from headway.sharding.carrying import CopyLost, GivenUp
from headway.sharding.importing import statements
from headway.sharding.importing.look import kept_bytes, shape_of
from headway.sharding.importing.partitions import partition_shapes
from headway.sharding.importing.work import Work, ask, rows, run
from headway.sharding.layout import REFERENCE_SCHEMA, identifier
from headway.sharding.move.link import drop_subscription, marker_arrived, subscription_id, write_marker
from headway.sharding.move.look import copying, lost_copies, oldest_writer
from headway.sharding.move.sessions import NO_TIMEOUTS, Connection, connect, scalar
from headway.sharding.publication import drop_publication

_POLL_S, _POLL_MAX_S = 0.02, 0.5
_SLOTS_GONE_S = 10.0
_LOST_S = 5.0
# What a server says when it will never get in.
_NEVER = ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied")
# A statement that names a password is not to be found in any log.
_UNTOLD = "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_statement = -1"


def prepare(work: Work) -> None:
    """Fence the shards, which are empty; put the tables to copy into beside them, and the marker at the source."""
    plan = work.plan
    run(work.at_source, statements.source_space(plan, work.mark))

    def on(server: str) -> None:
        connection = work.on(server)
        clear_copies(work, connection)
        lines = [statements.target_space(plan, work.mark), statements.close_shards(plan)]
        lines += [statements.staging(plan, table, work.mark) for table in plan.tables]
        places = [
            (schema, table)
            for table in plan.tables
            for schema in ([REFERENCE_SCHEMA] if table.is_reference else work.schemas(server).values())
        ]
        lines += [statements.fence_shard(plan, schema, table) for schema, table in places]
        for table in plan.tables:
            if table.is_reference:  # what was there before is put back by an abort
                kept = statements.place(plan.space, f"kept_{table.name}"[:63])
                there = statements.place(REFERENCE_SCHEMA, table.name)
                lines.append(f"CREATE TABLE IF NOT EXISTS {kept} AS SELECT * FROM {there};")
        with connection.transaction():
            run(connection, "\n".join(lines))
            for schema, table in places:
                where = statements.place(schema, table.name)
                if not table.is_reference and ask(connection, f"SELECT EXISTS (SELECT FROM {where})"):
                    raise GivenUp(f"table {where} on server {server} holds rows", "Import into shards that are empty.")

    work.each(on)
    names = [table.name for table in plan.tables]
    shape = shape_of(work.at_source, plan.schema, names)
    partitions = partition_shapes(work.at_source, plan.schema, names)
    work.advance("prepared", prepared=True, shape=shape, partitions=partitions)


def clear_copies(work: Work, connection: Connection) -> None:
    """Remove what an earlier import, which could not reach this server at its end, has left."""
    found = rows(
        connection,
        "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE relkind = 'r' AND obj_description(c.oid, 'pg_class') LIKE 'headway: being imported%' "
        f"AND obj_description(c.oid, 'pg_class') <> {statements.literal(work.mark)}",
    )
    for (name,) in found:
        run(connection, f"DROP TABLE {name}")
    comment = scalar(
        connection,
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s",
        (work.plan.space,),
    )
    if comment is not None and comment != work.mark:
        run(connection, f"DROP SCHEMA {identifier(work.plan.space)} CASCADE")


def link(work: Work) -> None:
    """Publication, slot and subscription for every server; from here on changes are kept for them."""
    subids = {}
    for server in work.servers:
        connection = work.on(server)
        if not subscription_id(connection, work.link(server)):
            _subscribe(work, server, connection)
        subids[server] = [
            subscription_id(connection, work.link(server)),
            str(scalar(connection, "SELECT system_identifier::text FROM pg_control_system()")),
        ]
    # Known before the first copy begins, for copies have slots of their own that only these numbers find.
    work.note(subids=subids)
    for server in work.servers:
        name = identifier(work.link(server))
        run(work.on(server), f"ALTER SUBSCRIPTION {name} ENABLE")
        try:
            run(work.on(server), f"ALTER SUBSCRIPTION {name} REFRESH PUBLICATION")
        except psycopg.Error as error:
            raise _refused(server, error) from None
    work.advance("replicating", copy_began=time.time())


def _subscribe(work: Work, server: str, connection: Connection) -> None:
    source, name = work.at_source, work.link(server)
    # A slot without a subscription may be half made by a carrier that was killed: nobody has read from it.
    drop_slots(work, source, server)
    drop_publication(source, name)
    run(source, statements.create_publication(work.plan, name, work.map.on(server)))
    _make_slot(work, name)
    way = conninfo_to_dict(work.source.replication)
    options = f"{way.get('options') or ''} {NO_TIMEOUTS}".strip()
    told = make_conninfo(**way | {"options": options, "application_name": name})  # type: ignore[arg-type]
    # On a connection of its own, for this alone.
    with connect(work.servers[server].admin, work.connections.name) as apart:
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            apart.execute(_UNTOLD)
        try:
            run(apart, statements.create_subscription(name, told, major=apart.info.server_version // 10000))
        except psycopg.Error as error:
            raise _refused(server, error) from None


def _refused(server: str, error: psycopg.Error) -> Exception:
    """The error for a server that does not subscribe. What the server says holds no password; its context might."""
    said = error.diag.message_primary or "it refused"
    if any(word in said for word in _NEVER):
        hint = "Let it reach the source: its address, pg_hba.conf, and a role with REPLICATION."
        return GivenUp(f"server {server} cannot subscribe to the source: {said}", hint)
    if isinstance(error, psycopg.OperationalError):
        return psycopg.OperationalError(f"server {server} cannot subscribe to the source: {said}")
    return GivenUp(f"server {server} cannot subscribe to the source: {said}")


def _make_slot(work: Work, name: str) -> None:
    """Wait, aloud, for every open transaction of the source's cluster that has written: a slot begins after them."""
    with (
        connect(work.source.admin, work.connections.name) as connection,
        ThreadPoolExecutor(1, "headway-slot") as thread,
    ):
        made = thread.submit(connection.execute, "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
        try:
            while not made.done():
                if blocker := oldest_writer(work.at_source, 1.0):
                    work.tell(f"the source: waiting for {blocker.sentence}", blocker.hint)
                work.wait(0.02)
        except BaseException:
            connection.cancel()
            raise
        made.result()


def drop_slots(work: Work, source: Connection, server: str) -> None:
    """A server's slot and those of its copies, whoever reads them. The own one first: without it no copy begins."""
    known = work.record.facts.get("subids")
    subid, system = known.get(server, (0, "")) if isinstance(known, dict) else (0, "")
    copies = rf"pg\_{subid}\_sync\_%\_{system}" if subid else ""
    name = work.link(server)
    deadline_s = time.monotonic() + _SLOTS_GONE_S
    while found := source.execute(
        "SELECT slot_name::text, active_pid FROM pg_replication_slots WHERE slot_name = %s OR slot_name LIKE %s "
        "ORDER BY slot_name = %s DESC",
        (name, copies, name),
    ).fetchall():
        for slot, pid in found:
            if pid is not None:
                source.execute("SELECT pg_terminate_backend(%s)", (pid,))
                continue
            with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                source.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        if time.monotonic() > deadline_s:
            raise psycopg.OperationalError(f"slot {found[0][0]} at the source cannot be dropped")
        time.sleep(0.005)


def unlink(work: Work, server: str) -> None:
    """The server's side of the link, without a word to the source."""
    drop_subscription(work.on(server), work.link(server))


def wait_for_copy(work: Work) -> None:
    """Until every table of every server has its rows; then the streams stand still for the shards to be filled.

    CopyLost when that cannot be.
    """
    total = int(work.record.number("rows_total"))
    began_s = work.record.number("copy_began") or time.time()
    since_s, before = time.monotonic(), (-1, -1)
    poll_s = _POLL_S
    while True:
        states = {name: copying(work.on(name), work.link(name)) for name in work.servers}
        if lost := [name for name, state in states.items() if state is None]:
            raise GivenUp(f"the subscription {work.link(lost[0])} on server {lost[0]} is gone")
        known = {name: state for name, state in states.items() if state is not None}
        waiting = sum(len(state.waiting) for state in known.values())
        if not waiting:
            break
        check_log(work)
        write_marker(work.at_source, work.plan.space)  # the apply workers look after their copies when something comes
        arrived = sum(state.rows for state in known.values())
        told, hint = "", ""
        if (arrived, waiting) != before:
            before, since_s = (arrived, waiting), time.monotonic()
        failing = [name for name, state in known.items() if state.errors]
        if time.monotonic() - since_s > 2:
            if blocker := oldest_writer(work.at_source, 2.0):
                told, hint, since_s = f"the source: waiting for {blocker.sentence}", blocker.hint, time.monotonic()
            elif time.monotonic() - since_s > _LOST_S and (died := _lost(work)):
                raise CopyLost(died)
            elif failing:
                told = f"server {failing[0]}: attempts to copy have failed"
                hint = "Its log says why: a full disk, a right that lacks."
        if time.monotonic() - since_s > work.bounds.stuck_max_s:
            raise GivenUp(f"nothing has moved on for {work.bounds.stuck_max_s:.0f} s: {told}", hint)
        rate = arrived / max(0.001, time.time() - began_s)
        work.tell(told, hint, rows=arrived, rows_total=max(total, arrived), rows_per_s=rate)
        work.wait(poll_s)
        poll_s = min(_POLL_MAX_S, poll_s * 1.1)
    still(work)
    work.advance("copied", copy_s=round(time.time() - began_s, 3))


def _lost(work: Work) -> str:
    for server in work.servers:
        if lost := lost_copies(work.at_source, work.on(server), work.link(server)):
            return f"server {server} died at the end of the copy of {', '.join(lost)}"
    return ""


def still(work: Work) -> None:
    """Stop the streams; the source keeps what comes."""
    for server in work.servers:
        run(work.on(server), f"ALTER SUBSCRIPTION {identifier(work.link(server))} DISABLE")
    deadline_s = time.monotonic() + work.bounds.stuck_max_s
    for server in work.servers:
        while scalar(
            work.on(server), "SELECT EXISTS (SELECT FROM pg_stat_subscription WHERE subname = %s AND pid IS NOT NULL)",
            (work.link(server),),
        ):  # fmt: skip
            if time.monotonic() > deadline_s:
                raise psycopg.OperationalError(f"server {server} does not stop its subscription")
            work.wait(0.01)


def check_log(work: Work) -> None:
    """Give up before the log that is kept for the servers fills the source's disk."""
    kept = kept_bytes(work.at_source, work.slots)
    work.kept_bytes = max(0, kept)
    if kept < 0:
        raise GivenUp(
            "the source has thrown away log that the import still needs",
            "Raise max_slot_wal_keep_size at the source, then import again.",
        )
    if kept > work.bounds.wal_max_bytes:
        raise GivenUp(
            f"the source keeps {kept / 2**20:.0f} MiB of log for the import, more than "
            f"{work.bounds.wal_max_bytes / 2**20:.0f} MiB",
            "A server is away or too slow for what is written: import again when less is.",
        )


def caught_up(work: Work, timeout_s: float) -> list[str]:
    """Servers that have not got all that was committed at the source until now, in time."""
    token = write_marker(work.at_source, work.plan.space)
    deadline_s = time.monotonic() + timeout_s

    def on(server: str) -> bool:
        left_s = max(0.0, deadline_s - time.monotonic())
        return marker_arrived(work.on(server), work.plan.space, token, left_s)

    return [server for server, arrived in work.each(on).items() if not arrived]
