"""Links the two servers (tables on the target, publication and slot on the source, subscription), and unlinks them."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from headway.model.sharding import MARKER_TABLE
from headway.sharding.carrying import GivenUp
from headway.sharding.move.dump import dump_schema, refused_ddl
from headway.sharding.move.look import oldest_writer, tables_of
from headway.sharding.move.record import add_facts
from headway.sharding.move.sessions import NO_TIMEOUTS, Connection, connect, number, scalar
from headway.sharding.move.statements import create_fence, create_publication, create_subscription, ddl_for_target
from headway.sharding.move.work import Work
from headway.sharding.publication import drop_publication

_SLOTS_GONE_S = 10.0
# What the target's server says when it will never get in.
_NEVER = (
    "authentication failed",
    "no pg_hba.conf entry",
    "does not exist",
    "no password supplied",
    "invalid connection",
)


def make_schema(work: Work) -> None:
    """The empty tables on the target, with their fence and a mark that they are ours, in one transaction."""
    source, target = work.sessions.source, work.sessions.target
    if _comment(target, work.schema) != work.comment:
        source.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (one boolean PRIMARY KEY DEFAULT true CHECK (one), "
                "token text NOT NULL DEFAULT '')"
            ).format(sql.Identifier(work.schema, MARKER_TABLE))
        )
        before, after = work.sessions.servers["source"], work.sessions.servers["target"]
        dump = dump_schema(before.admin, before.name, work.schema, work.programs())
        roles = {str(scalar(source, "SELECT current_user")): str(scalar(target, "SELECT current_user"))}
        roles[before.app_role] = after.app_role
        try:
            with target.transaction():
                target.execute(ddl_for_target(dump, roles).encode())
                target.execute(create_fence(work.schema, tables_of(target, work.schema)))
                target.execute(
                    sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(work.schema), sql.Literal(work.comment))
                )
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            refused = refused_ddl(error, work.schema, after.name)
            raise GivenUp(refused.message, refused.hint) from error
    work.advance("schema")


def make_link(work: Work) -> None:
    """Publication, slot, subscription, in this order; from here on changes are kept for the target."""
    source, target = work.sessions.source, work.sessions.target
    name = sql.Identifier(work.link)
    subid = subscription_id(target, work.link)
    if not subid:
        # A slot without a subscription may be half made by a mover that was killed: nobody has read from it.
        drop_slots(work, source)
        drop_publication(source, work.link)
        source.execute(create_publication(work.link, work.schema, tables_of(source, work.schema)))
        _make_slot(work)
        way = conninfo_to_dict(work.sessions.servers["source"].replication)
        options = f"{way.get('options') or ''} {NO_TIMEOUTS}".strip()
        conninfo = make_conninfo(
            **way | {"options": options, "application_name": work.link}  # type: ignore[arg-type]
        )
        try:
            target.execute(create_subscription(work.link, conninfo, major=target.info.server_version // 10000))
        except psycopg.Error as error:
            said = error.diag.message_primary or str(error)
            if any(word in said for word in _NEVER):
                raise GivenUp(
                    f"server {work.move.target} cannot subscribe to server {work.move.source}: {said}",
                    "Let the target reach the source: its address, pg_hba.conf, and a role with REPLICATION.",
                ) from error
            raise
        subid = subscription_id(target, work.link)
    # Known before the first copy begins, for copies have slots of their own that only this number finds.
    system = str(scalar(target, "SELECT system_identifier::text FROM pg_control_system()"))
    work.move = add_facts(work.sessions.catalog, work.move, subid=subid, target_system=system)
    target.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(name))
    work.advance("replicating", copy_began=time.time())


def _make_slot(work: Work) -> None:
    """Wait, aloud, for every open transaction of the source's cluster that has written: a slot begins after them."""
    server = work.sessions.servers["source"]
    with connect(server.admin, work.sessions.name) as connection, ThreadPoolExecutor(1, "headway-slot") as thread:
        made = thread.submit(
            connection.execute, "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (work.link,)
        )
        try:
            while not made.done():
                if blocker := oldest_writer(work.sessions.source, 1.0):
                    work.tell(f"server {server.name}: waiting for {blocker.sentence}", blocker.hint)
                work.wait(0.02)
        except BaseException:
            connection.cancel()
            raise
        made.result()


def subscription_id(target: Connection, name: str) -> int:
    """Its number; 0 when there is none."""
    return number(
        target,
        "SELECT oid::bigint FROM pg_subscription WHERE subname = %s "
        "AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        (name,),
    )


def drop_subscription(target: Connection, name: str) -> None:
    """Without a word to the source, which may be gone; its slots are dropped there."""
    if not subscription_id(target, name):
        return
    identifier = sql.Identifier(name)
    target.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(identifier))
    target.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(identifier))
    target.execute(sql.SQL("DROP SUBSCRIPTION {}").format(identifier))


def drop_slots(work: Work, source: Connection) -> None:
    """The move's slot and those of its copies, whoever reads them. The own one first: without it no copy begins."""
    deadline_s = time.monotonic() + _SLOTS_GONE_S
    while rows := source.execute(
        "SELECT slot_name::text, active_pid FROM pg_replication_slots WHERE slot_name = %s OR slot_name LIKE %s "
        "ORDER BY slot_name = %s DESC",
        (work.link, work.copy_slots, work.link),
    ).fetchall():
        for slot, pid in rows:
            if pid is not None:
                source.execute("SELECT pg_terminate_backend(%s)", (pid,))
                continue
            try:
                source.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
            except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                continue  # taken again, or gone, in between
        if time.monotonic() > deadline_s:
            raise psycopg.OperationalError(f"slot {rows[0][0]} on server {work.move.source} cannot be dropped")
        time.sleep(0.005)


def drop_schema_of_ours(target: Connection, schema: str, mark: str) -> None:
    """The half-made schema, when its comment begins with our mark; never another one."""
    if _comment(target, schema).startswith(mark):
        target.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))


def write_marker(source: Connection, schema: str) -> str:
    """A row that is new; when the target has it, it has all that was committed before."""
    token = uuid.uuid4().hex
    source.execute(
        sql.SQL(
            "INSERT INTO {} (one, token) VALUES (true, {}) ON CONFLICT (one) DO UPDATE SET token = excluded.token"
        ).format(sql.Identifier(schema, MARKER_TABLE), sql.Literal(token))
    )
    return token


def marker_arrived(target: Connection, schema: str, token: str, timeout_s: float) -> bool:
    """Whether the marker is there in time; asked again and again, for that is quicker than any report."""
    question = sql.SQL("SELECT token FROM {}").format(sql.Identifier(schema, MARKER_TABLE))
    deadline_s = time.monotonic() + timeout_s
    while scalar(target, question) != token:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.0003)
    return True


def _comment(connection: Connection, schema: str) -> str:
    found = scalar(
        connection, "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s", (schema,)
    )
    return str(found or "")
