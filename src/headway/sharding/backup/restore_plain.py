"""Brings a backup into a plain database: out with what is there and in with the other, in one transaction."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import sql

from headway.errors import Conflict
from headway.process.pour import PouringStopped
from headway.sharding.backup.cut import failed, kept_from_migrations
from headway.sharding.backup.manifest import PLAIN_FILE, Manifest, misfit
from headway.sharding.backup.programs import Refill
from headway.sharding.backup.restore import checked, restore_program
from headway.sharding.move.sessions import connect, end_sessions, scalar

Say = Callable[[str], None]
_NAME = "headway restore"
_TABLES = """
SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'headway_schema'
   AND nspname !~ '^pg_' AND nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND deptype = 'e')
"""
# All that is not the server's or an extension's. The schema `public` stays: not everybody may make it anew.
_EMPTY = """
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '60s';
DO $headway$ DECLARE one record; BEGIN
  FOR one IN SELECT nspname FROM pg_namespace n
      WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = n.oid AND deptype = 'e') LOOP
    EXECUTE format('DROP SCHEMA %I CASCADE', one.nspname);
  END LOOP;
  FOR one IN SELECT c.oid::regclass::text AS name, CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
        WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END AS kind
      FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND deptype IN ('e', 'i')) LOOP
    EXECUTE format('DROP %s IF EXISTS %s CASCADE', one.kind, one.name);
  END LOOP;
  FOR one IN SELECT p.oid::regprocedure::text AS name FROM pg_proc p WHERE pronamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND deptype IN ('e', 'i')) LOOP
    EXECUTE format('DROP ROUTINE IF EXISTS %s CASCADE', one.name);
  END LOOP;
  FOR one IN SELECT t.oid::regtype::text AS name FROM pg_type t
      WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd', 'r')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.oid AND deptype IN ('e', 'i')) LOOP
    EXECUTE format('DROP TYPE IF EXISTS %s CASCADE', one.name);
  END LOOP;
  PERFORM lo_unlink(oid) FROM pg_largeobject_metadata;
END $headway$;
"""


def restore_plain(
    database: str, conninfo: str, folder: Path, *, replace: bool, say: Say, stop: threading.Event
) -> Manifest:
    """Restore a backup as the role of `conninfo`, whose the tables are afterwards. Whatever goes wrong, the database is
    as before.

    AppError for a backup that is damaged or does not fit; Conflict for a database that holds rows.
    """
    manifest = checked(folder, say, stop.is_set)
    if (wrong := misfit(manifest, database, None)) is not None:
        raise wrong
    program = restore_program(manifest.dumped_by)
    where = f"database {database}"
    with contextlib.ExitStack() as stack:
        try:
            session = stack.enter_context(connect(conninfo, "headway restoring"))
            stack.enter_context(kept_from_migrations(session, database, "the restore"))
            tables = session.execute(_TABLES).fetchall()
            some = [sql.SQL("EXISTS (SELECT FROM {})").format(sql.Identifier(str(s), str(t))) for s, t in tables]
            if not replace and some and scalar(session, sql.SQL("SELECT {}").format(sql.SQL(" OR ").join(some))):
                raise Conflict(
                    f"{database} holds rows", hint="--replace puts the backup in their place; they are lost then."
                )
            end_sessions(session, _NAME)  # what a killed one left at work
            old = session.info.server_version < 170000
        except psycopg.Error as error:
            raise failed(where, error) from error
        say(f"restoring {database}")
        try:
            with Refill(where, conninfo, program, name=_NAME, old_server=old, stop=stop.is_set) as refill:
                refill.sql(_EMPTY)
                refill.archive(str(folder / PLAIN_FILE))
                refill.done()
        except PouringStopped:
            raise Conflict(f"{database} is as before: Headway stops", hint="Run the command again.") from None
    return manifest
