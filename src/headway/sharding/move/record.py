"""The durable record of moves, in `headway.moves` of the catalog.

A change of stage names the stage it leaves, so that of two movers, or a mover and one who aborts, one finds out.
"""

from __future__ import annotations

import json
from typing import cast

import psycopg

from headway.errors import Conflict, EngineError
from headway.sharding.move.nouns import COMMITTED, ENDED, FORWARD, Move, Stage

Connection = psycopg.Connection[tuple[object, ...]]
_COLUMNS = "id, shard, source, target, stage, facts::text"


class StageChanged(Exception):
    """The record says something else than this mover thinks: read it again."""


def _move(row: tuple[object, ...]) -> Move:
    return Move(
        id=int(cast(int, row[0])),
        shard=int(cast(int, row[1])),
        source=str(row[2]),
        target=str(row[3]),
        stage=cast(Stage, row[4]),
        facts=json.loads(str(row[5])),
    )


def insert_move(catalog: Connection, shard: int, source: str, target: str) -> int:
    """Record a new move. Conflict when one of this shard is under way, or shards are being split."""
    try:
        row = catalog.execute(
            "INSERT INTO headway.moves (shard, source, target, stage) SELECT %s, %s, %s, 'begun' "
            "WHERE NOT EXISTS (SELECT FROM headway.splits WHERE ended_at IS NULL) RETURNING id",
            (shard, source, target),
        ).fetchone()
    except psycopg.errors.UniqueViolation:
        raise under_way(catalog, shard) from None
    if row is None:
        raise Conflict(
            f"shard {shard} cannot move while the shards are being split",
            hint="Wait until that has ended: headway db status",
        )
    return int(cast(int, row[0]))


def under_way(catalog: Connection, shard: int) -> Conflict:
    """The error for a second move of a shard."""
    found = [move for move in open_moves(catalog) if move.shard == shard]
    where = f" to server {found[0].target} (move {found[0].id}, stage {found[0].stage})" if found else ""
    return Conflict(
        f"shard {shard} is moving already{where}", hint="headway db status shows it; it goes on by itself, or abort it."
    )


def read_move(catalog: Connection, move_id: int) -> Move:
    """One move as it is recorded now."""
    row = catalog.execute(f"SELECT {_COLUMNS} FROM headway.moves WHERE id = %s", (move_id,)).fetchone()
    if row is None:
        raise EngineError(f"there is no move {move_id}", hint="headway db status shows the moves under way.")
    return _move(row)


def open_moves(catalog: Connection) -> list[Move]:
    """The moves that have not ended, oldest first. What the controller resumes."""
    rows = catalog.execute(f"SELECT {_COLUMNS} FROM headway.moves WHERE ended_at IS NULL ORDER BY id").fetchall()
    return [_move(row) for row in rows]


def advance(catalog: Connection, move: Move, stage: Stage, **facts: object) -> Move:
    """Leave `move.stage` for `stage`, in the caller's transaction if there is one.

    StageChanged when the record is at another stage, or when it is to be aborted and this step goes on to the commit
    point or towards it.
    """
    towards = stage in FORWARD and FORWARD.index(stage) >= FORWARD.index(move.stage) and move.stage not in COMMITTED
    row = catalog.execute(
        "UPDATE headway.moves SET stage = %s, facts = facts || %s::jsonb, changed_at = clock_timestamp(), "
        "ended_at = CASE WHEN %s THEN clock_timestamp() END "
        f"WHERE id = %s AND stage = %s AND NOT (%s AND facts ? 'abort') RETURNING {_COLUMNS}",
        (stage, json.dumps(facts), stage in ENDED, move.id, move.stage, towards),
    ).fetchone()
    if row is None:
        raise StageChanged
    return _move(row)


def add_facts(catalog: Connection, move: Move, **facts: object) -> Move:
    """Keep facts at the stage the move is at, also when an abort is wanted."""
    row = catalog.execute(
        "UPDATE headway.moves SET facts = facts || %s::jsonb, changed_at = clock_timestamp() "
        f"WHERE id = %s AND stage = %s RETURNING {_COLUMNS}",
        (json.dumps(facts), move.id, move.stage),
    ).fetchone()
    if row is None:
        raise StageChanged
    return _move(row)


def want_abort(catalog: Connection, move_id: int, reason: str, hint: str = "") -> Move:
    """Tell whoever works on it that the move is to be given up. Conflict past the commit point."""
    row = catalog.execute(
        "UPDATE headway.moves SET facts = %s::jsonb || facts "  # the first reason stays
        f"WHERE id = %s AND NOT stage = ANY(%s) AND ended_at IS NULL RETURNING {_COLUMNS}",
        (json.dumps({"abort": reason, "hint": hint}), move_id, sorted(COMMITTED)),
    ).fetchone()
    if row is not None:
        return _move(row)
    move = read_move(catalog, move_id)
    if move.stage in COMMITTED:
        raise Conflict(
            f"move {move_id} cannot be aborted: shard {move.shard} is on server {move.target} already",
            hint=f"Let it end, then move the shard back: headway db move DATABASE {move.shard} --to {move.source}",
        )
    return move


def try_lock(catalog: Connection, shard: int) -> bool:
    """Become the one mover of this shard, for as long as the connection lives."""
    row = catalog.execute("SELECT pg_try_advisory_lock(hashtext('headway.move'), %s)", (shard,)).fetchone()
    return bool(row and row[0])
