"""The durable record of imports, in `headway.imports` of the catalog."""

from __future__ import annotations

import json
from typing import cast

import psycopg

from headway.errors import Conflict, HeadwayError
from headway.sharding.catalog import held, is_held
from headway.sharding.importing.nouns import COMMITTED, Import
from headway.sharding.move.sessions import Connection
from headway.sharding.records import Records

_IMPORTS = Records("headway.imports", Import, ("source",))
advance = _IMPORTS.advance
add_facts = _IMPORTS.add_facts


def insert_import(catalog: Connection, source: str, **facts: object) -> int:
    """Record a new import. Conflict when one is under way, or shards are being split."""
    try:
        with catalog.transaction():
            if is_held(catalog):
                raise held("the import")
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
    one = _IMPORTS.find(catalog, import_id)
    if one is None:
        raise HeadwayError(f"there is no import {import_id}", hint="headway db status shows what is under way.")
    return one


def open_import(catalog: Connection) -> Import | None:
    """The import that has not ended. What the controller resumes."""
    return next(iter(_IMPORTS.under_way(catalog)), None)


def want_abort(catalog: Connection, import_id: int, reason: str, hint: str = "") -> Import:
    """Tell whoever works on it that it is to be given up. Conflict past the commit point."""
    if wanted := _IMPORTS.want_abort(catalog, import_id, reason, hint):
        return wanted
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
        f"WHERE id = %s AND ended_at IS NULL AND NOT facts ? 'abort' RETURNING {_IMPORTS.columns}",
        (import_id,),
    ).fetchone()
    if row is None:
        raise Conflict("the import has ended or is being given up", hint="headway db status shows what is under way.")
    return _IMPORTS.read(row)


def try_lock(catalog: Connection) -> bool:
    """Become the one carrier of this database's import, for as long as the connection lives."""
    row = catalog.execute("SELECT pg_try_advisory_lock(hashtext('headway.import'))").fetchone()
    return bool(row and row[0])
