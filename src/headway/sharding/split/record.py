"""The durable record of a split, in `headway.splits` and `headway.split_shards` of the catalog."""

from __future__ import annotations

from typing import cast

from headway.errors import Conflict, EngineError
from headway.model.sharding import KeyKind, ShardMap
from headway.sharding.catalog import create_shard_of, held, is_held, raise_epoch
from headway.sharding.move.sessions import Connection, scalar
from headway.sharding.records import Records
from headway.sharding.split.nouns import COMMITTED, ShardStage, Split, SplitStage

_SPLITS = Records("headway.splits", Split, ("shards",))
_MIGRATES = "SELECT pg_try_advisory_xact_lock(hashtext('headway.migrate'))"


def insert_split(catalog: Connection, map_: ShardMap) -> int:
    """Record a new split. Conflict while anything moves, migrates or is split: none of them begins from here on."""
    with catalog.transaction():
        # A move or an import that begins waits for this lock, and then sees the split.
        catalog.execute("LOCK TABLE headway.moves, headway.imports, headway.splits IN SHARE ROW EXCLUSIVE MODE")
        if is_held(catalog):
            raise held("the split")
        if not scalar(catalog, _MIGRATES):
            raise Conflict(f"database {map_.database} is being migrated", hint="Wait until that has ended.")
        if found := open_split(catalog):
            raise Conflict(
                f"the {found.shards} shards of database {map_.database} are being split already ({found.stage})",
                hint=f"It goes on by itself: headway db status {map_.database}",
            )
        moving = catalog.execute("SELECT shard, target FROM headway.moves WHERE ended_at IS NULL LIMIT 1").fetchone()
        if moving is not None:
            raise Conflict(
                f"database {map_.database} cannot be split while shard {moving[0]} moves to server {moving[1]}",
                hint=f"Wait until it has ended: headway db status {map_.database}",
            )
        if map_.at_source or scalar(catalog, "SELECT EXISTS (SELECT FROM headway.imports WHERE ended_at IS NULL)"):
            raise Conflict(
                f"database {map_.database} cannot be split while its rows are at the source of an import",
                hint=f"Wait until that has ended: headway db status {map_.database}",
            )
        if scalar(catalog, "SELECT shards FROM headway.catalog") != map_.shards:
            raise Conflict("the map has changed meanwhile", hint="Run the command again.")
        number = scalar(
            catalog,
            "INSERT INTO headway.splits (shards, stage) VALUES (%s, 'filling') RETURNING id",
            (map_.shards,),
        )
        catalog.execute(
            "INSERT INTO headway.split_shards (split, shard, stage) SELECT %s, shard, 'begun' FROM headway.shard_map",
            (number,),
        )
        _tell(catalog, "filling")
    return int(cast(int, number))


def open_split(catalog: Connection) -> Split | None:
    """The split that has not ended. What the controller resumes."""
    return next(iter(_SPLITS.under_way(catalog)), None)


def read_split(catalog: Connection, split_id: int) -> Split:
    """One split as it is recorded now."""
    split = _SPLITS.find(catalog, split_id)
    if split is None:
        raise EngineError(f"there is no split {split_id}", hint="headway db status")
    return split


def stages(catalog: Connection, split_id: int) -> dict[int, ShardStage]:
    """How far each shard is."""
    rows = catalog.execute("SELECT shard, stage FROM headway.split_shards WHERE split = %s ORDER BY 1", (split_id,))
    return {int(cast(int, shard)): cast(ShardStage, stage) for shard, stage in rows}


def rows_of(catalog: Connection, split_id: int) -> int:
    """How many rows have been copied."""
    found = scalar(catalog, "SELECT sum(rows)::int8 FROM headway.split_shards WHERE split = %s", (split_id,))
    return int(cast(int, found or 0))


def set_shard(catalog: Connection, split_id: int, shard: int, stage: ShardStage, rows: int | None = None) -> None:
    """A step of a shard is done."""
    catalog.execute(
        "UPDATE headway.split_shards SET stage = %s, rows = coalesce(%s, rows) WHERE split = %s AND shard = %s",
        (stage, rows, split_id, shard),
    )


def advance(catalog: Connection, split: Split, stage: SplitStage) -> Split:
    """Leave one stage for the next. StageChanged when the record is at another, or is to be undone instead."""
    with catalog.transaction():
        changed = _SPLITS.advance(catalog, split, stage)
        if stage == "switched":
            _double(catalog, split.shards)
        _tell(catalog, stage if stage in ("filling", "switched") else "")
    return changed


def _double(catalog: Connection, shards: int) -> None:
    """The commit point: twice the shards, the second halves on the servers of the first."""
    kind = cast(KeyKind, scalar(catalog, "SELECT kind FROM headway.keys LIMIT 1") or "int")
    catalog.execute(
        "INSERT INTO headway.shard_map (shard, server, epoch) "
        "SELECT shard + %s, server, (SELECT epoch + 1 FROM headway.catalog) FROM headway.shard_map",
        (shards,),
    )
    catalog.execute("UPDATE headway.catalog SET shards = %s", (2 * shards,))
    create_shard_of(catalog, 2 * shards, kind)


def _tell(catalog: Connection, split: str) -> None:
    catalog.execute("UPDATE headway.catalog SET split = %s", (split,))
    raise_epoch(catalog)


def want_abort(catalog: Connection, split_id: int, reason: str, hint: str = "") -> Split:
    """Tell whoever works on it that the split is to be undone. Conflict past the commit point."""
    if wanted := _SPLITS.want_abort(catalog, split_id, reason, hint):
        return wanted
    split = read_split(catalog, split_id)
    if split.stage in COMMITTED:
        raise Conflict(
            f"the split cannot be undone: the map has {2 * split.shards} shards already",
            hint="It goes on by itself, and nobody has to wait for it: headway db status",
        )
    return split


def try_lock(catalog: Connection) -> bool:
    """Become the one splitter of this database, for as long as the connection lives."""
    return bool(scalar(catalog, "SELECT pg_try_advisory_lock(hashtext('headway.split'))"))
