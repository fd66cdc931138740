"""The durable record of moves, in `headway.moves` of the catalog."""

from __future__ import annotations

from typing import cast

import psycopg

from headway.errors import Conflict, EngineError
from headway.sharding.catalog import held, is_held
from headway.sharding.move.nouns import COMMITTED, Move
from headway.sharding.move.sessions import Connection
from headway.sharding.records import Records

_MOVES = Records("headway.moves", Move, ("shard", "source", "target"))
advance = _MOVES.advance
add_facts = _MOVES.add_facts
open_moves = _MOVES.under_way  # what the controller resumes


def insert_move(catalog: Connection, shard: int, source: str, target: str) -> int:
    """Record a new move. Conflict when one of this shard is under way, or shards are being split."""
    try:
        with catalog.transaction():
            if is_held(catalog):
                raise held(f"the move of shard {shard}")
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


def newest(catalog: Connection) -> int:
    """The number of the last move that was recorded; 0: none was."""
    row = catalog.execute("SELECT coalesce(max(id), 0) FROM headway.moves").fetchone()
    return int(cast(int, row[0])) if row else 0


def done_from(catalog: Connection, server: str, after: int) -> list[Move]:
    """Moves that have brought shards away from a server, of those recorded after this one."""
    query = f"SELECT {_MOVES.columns} FROM headway.moves WHERE source = %s AND stage = 'done' AND id > %s ORDER BY id"
    return [_MOVES.read(row) for row in catalog.execute(query.encode(), (server, after))]


def under_way(catalog: Connection, shard: int) -> Conflict:
    """The error for a second move of a shard."""
    found = [move for move in open_moves(catalog) if move.shard == shard]
    where = f" to server {found[0].target} (move {found[0].id}, stage {found[0].stage})" if found else ""
    return Conflict(
        f"shard {shard} is moving already{where}", hint="headway db status shows it; it goes on by itself, or abort it."
    )


def read_move(catalog: Connection, move_id: int) -> Move:
    """One move as it is recorded now."""
    move = _MOVES.find(catalog, move_id)
    if move is None:
        raise EngineError(f"there is no move {move_id}", hint="headway db status shows the moves under way.")
    return move


def want_abort(catalog: Connection, move_id: int, reason: str, hint: str = "") -> Move:
    """Tell whoever works on it that the move is to be given up. Conflict past the commit point."""
    if wanted := _MOVES.want_abort(catalog, move_id, reason, hint):
        return wanted
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
