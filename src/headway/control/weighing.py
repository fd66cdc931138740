"""What the shards of a database hold, and how much is read and written in them in a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from headway.errors import HeadwayError
from headway.model.sharding import ShardMap
from headway.sharding.admin import AdminServer
from headway.sharding.rebalance import By, PlannedMove
from headway.sharding.survey import rows_counted, sizes

OVER_MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class Weighed:
    """By shard: bytes, and rows read and written in a second. `owners`: as the map was. `away`: servers that could not
    be asked, with their states; nothing is known of their shards."""

    bytes: Mapping[int, float]
    per_s: Mapping[int, float]
    owners: Sequence[str]
    servers: Sequence[str]
    away: Mapping[str, str] = field(default_factory=dict)


def weigh(
    database: str,
    map_: ShardMap,
    servers: Sequence[AdminServer],
    stop: threading.Event,
    by: By,
    over_s: float,
    away: Mapping[str, str] | None = None,
) -> Weighed:
    """Look twice, `over_s` apart; for 0 once, at what PostgreSQL has counted since it began to. `away`: servers that
    cannot be looked at, with their states."""
    if not 0 <= over_s <= OVER_MAX_S:
        raise HeadwayError(f"--over {over_s:g}: 0 to {OVER_MAX_S:.0f} seconds", hint="Leave it out: five seconds.")
    per_s: dict[int, float] = {}
    if by != "rows":
        before, for_s = rows_counted(database, map_, servers)
        began_s = time.monotonic()
        if over_s:
            stop.wait(over_s)
            after, _ = rows_counted(database, map_, servers)
            seconds = time.monotonic() - began_s
            # A server that was started again in between counts from nothing.
            per_s = {shard: max(0.0, count - before.get(shard, 0.0)) / seconds for shard, count in after.items()}
        else:
            per_s = {shard: count / max(1.0, for_s[shard]) for shard, count in before.items()}
    held = sizes(database, map_, servers, counts=False)
    sizes_now = {shard: float(size) for shard, (_, size) in held.items()}
    return Weighed(sizes_now, per_s, map_.owners, [one.name for one in servers], away or {})


def told_plan(planned: Sequence[PlannedMove], weighed: Weighed) -> dict[str, Any]:
    """A plan for programs: its moves, and what every server carries before and after."""
    owners = list(weighed.owners)
    for move in planned:
        owners[move.shard] = move.target

    def on(server: str, places: Sequence[str], weights: Mapping[int, float]) -> float:
        return round(sum(weights.get(shard, 0.0) for shard, owner in enumerate(places) if owner == server), 1)

    return {
        "moves": [
            asdict(move)
            | {
                "bytes": int(weighed.bytes.get(move.shard, 0)),
                "rows_per_s": round(weighed.per_s.get(move.shard, 0.0), 1),
            }
            for move in planned
        ],
        "servers": [
            {
                "name": server,
                "shards": [list(places).count(server) for places in (weighed.owners, owners)],
                "bytes": [int(on(server, places, weighed.bytes)) for places in (weighed.owners, owners)],
                "rows_per_s": [on(server, places, weighed.per_s) for places in (weighed.owners, owners)],
            }
            for server in weighed.servers
        ],
        "away": [
            {"name": server, "state": state, "shards": list(weighed.owners).count(server)}
            for server, state in weighed.away.items()
        ],
    }
