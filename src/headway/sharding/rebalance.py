"""Which shards to move so that servers carry about the same: a plan to be looked at before anything moves. Pure.

Greedy, as longest-processing-time scheduling is (Graham 1969): from the server that carries most to the one that
carries least, the shard that brings the two closest, as long as that gains enough. Few moves count more than the last
percent: every one copies data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

GAIN_MIN = 0.02  # of the mean: below that a move is not worth its copy
MOVES_MAX = 256


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """One move of a plan, and the weight that it carries."""

    shard: int
    source: str
    target: str
    weight: float


def plan(
    owners: Sequence[str],
    weights: Mapping[int, float],
    servers: Collection[str],
    empty: Collection[str] = (),
    moves_max: int = MOVES_MAX,
) -> tuple[PlannedMove, ...]:
    """Moves in the order to carry them out. `weights`: what each shard carries; `empty`: servers to be left by all."""
    stays = sorted(set(servers) - set(empty))
    if not stays:
        return ()
    held: dict[str, dict[int, float]] = {server: {} for server in {*servers, *owners}}
    for shard, owner in enumerate(owners):
        # A shard without rows still weighs something: what is empty today is filled tomorrow.
        held[owner][shard] = weights.get(shard, 0.0) + 1e-9
    loads = {server: sum(shards.values()) for server, shards in held.items()}
    moves: list[PlannedMove] = []

    def move(shard: int, source: str, target: str) -> None:
        weight = held[source].pop(shard)
        held[target][shard] = weight
        loads[source] -= weight
        loads[target] += weight
        moves.append(PlannedMove(shard, source, target, weight))

    for source in sorted(set(held) - set(stays)):
        for shard in sorted(held[source], key=lambda shard: (-held[source][shard], shard)):
            move(shard, source, min(stays, key=lambda server: (loads[server], server)))
    mean = sum(loads[server] for server in stays) / len(stays)
    while len(moves) < moves_max:
        most = max(stays, key=lambda server: (loads[server], server))
        least = min(stays, key=lambda server: (loads[server], server))
        apart = loads[most] - loads[least]
        # Of shards that are lighter than what the two are apart, the one that leaves them closest.
        better = [shard for shard, weight in held[most].items() if weight < apart]
        if not better or apart <= GAIN_MIN * mean:
            break
        shard = min(better, key=lambda shard: (abs(apart - 2 * held[most][shard]), shard))
        if apart - abs(apart - 2 * held[most][shard]) <= GAIN_MIN * mean:
            break
        move(shard, most, least)
    return tuple(moves)
