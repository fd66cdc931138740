"""The durable record of imports, in `headway.imports` of the catalog.

A change of stage names the stage it leaves, so that of two carriers, or a carrier and one who aborts, one finds out.
"""

from __future__ import annotations

import json
from typing import cast

import psycopg

from headway.errors import Conflict, HeadwayError
from headway.sharding.importing.nouns import COMMITTED, ENDED, FORWARD, Import, Stage

Connection = psycopg.Connection[tuple[object, ...]]
_COLUMNS = "id, source, stage, facts::text"


class StageChanged(Exception):
    """The record says something else than this carrier thinks: read it again."""


def _import(row: tuple[object, ...]) -> Import:
    return Import(int(cast(int, row[0])), str(row[1]), cast(Stage, row[2]), json.loads(str(row[3])))


def insert_import(catalog: Connection, source: str, **facts: object) -> int:
    """Record a new import. Conflict when one is under way, or shards are being split."""
    try:
        row = catalog.execute(
            "INSERT INTO headway.imports (source, stage, facts) SELECT %s, 'begun', %s::jsonb "
            "WHERE NOT EXISTS (SELECT FROM headway.splits WHERE ended_at IS NULL) RETURNING id",
            (source, json.dumps(facts)),
        ).fetchone()
    except psycopg.errors.UniqueViolation:
        raise Conflict("an import is under way already", hint="headway db status shows it.") from None
    if row is None:
        raise Conflict("the shards are being split", hint="Wait until that has ended: headway db status")
    return int(cast(int, row[0]))


def read_import(catalog: Connection, import_id: int) -> Import:
    """One import as it is recorded now."""
    row = catalog.execute(f"SELECT {_COLUMNS} FROM headway.imports WHERE id = %s", (import_id,)).fetchone()
    if row is None:
        raise HeadwayError(f"there is no import {import_id}", hint="headway db status shows what is under way.")
    return _import(row)


def open_import(catalog: Connection) -> Import | None:
    """The import that has not ended. What the controller resumes."""
    row = catalog.execute(f"SELECT {_COLUMNS} FROM headway.imports WHERE ended_at IS NULL").fetchone()
    return _import(row) if row is not None else None


def advance(catalog: Connection, one: Import, stage: Stage, **facts: object) -> Import:
    """Leave `one.stage` for `stage`, in the caller's transaction if there is one.

    StageChanged when the record is at another stage, or when it is to be aborted and this step goes on.
    """
    towards = stage in FORWARD and FORWARD.index(stage) >= FORWARD.index(one.stage) and one.stage not in COMMITTED
    row = catalog.execute(
        "UPDATE headway.imports SET stage = %s, facts = facts || %s::jsonb, changed_at = clock_timestamp(), "
        "ended_at = CASE WHEN %s THEN clock_timestamp() END "
        f"WHERE id = %s AND stage = %s AND NOT (%s AND facts ? 'abort') RETURNING {_COLUMNS}",
        (stage, json.dumps(facts), stage in ENDED, one.id, one.stage, towards),
    ).fetchone()
    if row is None:
        raise StageChanged
    return _import(row)


def add_facts(catalog: Connection, one: Import, **facts: object) -> Import:
    """Keep facts at the stage the import is at, also when an abort is wanted."""
    row = catalog.execute(
        "UPDATE headway.imports SET facts = facts || %s::jsonb, changed_at = clock_timestamp() "
        f"WHERE id = %s AND stage = %s RETURNING {_COLUMNS}",
        (json.dumps(facts), one.id, one.stage),
    ).fetchone()
    if row is None:
        raise StageChanged
    return _import(row)


def want_abort(catalog: Connection, import_id: int, reason: str, hint: str = "") -> Import:
    """Tell whoever works on it that it is to be given up. Conflict past the commit point."""
    row = catalog.execute(
        "UPDATE headway.imports SET facts = %s::jsonb || facts "  # the first reason stays
        f"WHERE id = %s AND NOT stage = ANY(%s) AND ended_at IS NULL RETURNING {_COLUMNS}",
        (json.dumps({"abort": reason, "hint": hint}), import_id, sorted(COMMITTED)),
    ).fetchone()
    if row is not None:
        return _import(row)
    one = read_import(catalog, import_id)
    if one.stage in COMMITTED:
        raise Conflict(
            "the import cannot be aborted: the shards have taken over already",
            hint="What the source had is still there, behind a fence; the guide on imports says how to open it.",
        )
    return one


def want_switch(catalog: Connection, import_id: int) -> Import:
    """Tell whoever works on it to switch as soon as it can. Conflict when it has ended."""
    row = catalog.execute(
        "UPDATE headway.imports SET facts = facts || jsonb_build_object('switch', "
        "COALESCE((facts ->> 'switch_answered')::int, 0) + 1) "
        f"WHERE id = %s AND ended_at IS NULL AND NOT facts ? 'abort' RETURNING {_COLUMNS}",
        (import_id,),
    ).fetchone()
    if row is None:
        raise Conflict("the import has ended or is being given up", hint="headway db status shows what is under way.")
    return _import(row)


def try_lock(catalog: Connection) -> bool:
    """Become the one carrier of this database's import, for as long as the connection lives."""
    row = catalog.execute("SELECT pg_try_advisory_lock(hashtext('headway.import'))").fetchone()
    return bool(row and row[0])
