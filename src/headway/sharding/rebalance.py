"""Which shards to move so that servers carry about the same: a plan to be looked at before anything moves. Pure.

Greedy, as longest-processing-time scheduling is (Graham 1969): from the server that carries most to the one that
carries least, the shard that brings the two closest, as long as that gains enough. Few moves count more than the last
percent: every one copies data.

What servers carry is what they hold, or the rows that are read and written in a second, or both alike. Load goes up and
down by itself, so a plan that looks at it begins only where servers are well apart and gains more by each move: what it
moved today it must not move back tomorrow. And it leaves no server with far more of either than before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

GAIN_MIN = 0.02  # of the mean: below that a move is not worth its copy
MOVES_MAX = 256
# Where load counts: how far apart the servers have to be before anything moves, and what each move has to gain.
APART_MIN = 0.2
LOAD_MIN_PER_S = 100.0  # rows of all servers: below that which shard has them is chance
LOAD_GAIN_MIN = 0.05
# A server may come to more than any had before of what it holds, and of load, up to so much above the mean.
WORSE_MAX = 0.25
_SCALE = 10**9  # shares as whole numbers: sums are exact, so that a plan carried out leads to no other

By = Literal["rows", "load", "both"]
BYS: tuple[By, ...] = ("rows", "load", "both")


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
    *,
    apart_min: float = GAIN_MIN,
    gain_min: float = GAIN_MIN,
    bounded: Sequence[Mapping[int, float]] = (),
) -> tuple[PlannedMove, ...]:
    """Moves in the order to carry them out. `weights`: what each shard carries; `empty`: servers to be left by all;
    shards on others than `servers` stay there.

    Nothing is levelled unless servers are `apart_min` of the mean apart, and no move that gains less than `gain_min`.
    `bounded`: weights of which no move may give a server more than one had before and `WORSE_MAX` above the mean.
    """
    stays = sorted(set(servers) - set(empty))
    if not stays:
        return ()
    held: dict[str, dict[int, float]] = {server: {} for server in {*servers, *owners}}
    for shard, owner in enumerate(owners):
        # A shard without rows still weighs something: what is empty today is filled tomorrow.
        held[owner][shard] = max(weights.get(shard, 0.0), 1e-9)
    loads = {server: sum(shards.values()) for server, shards in held.items()}
    moves: list[PlannedMove] = []

    def move(shard: int, source: str, target: str) -> None:
        weight = held[source].pop(shard)
        held[target][shard] = weight
        loads[source] -= weight
        loads[target] += weight
        moves.append(PlannedMove(shard, source, target, weight))

    for source in sorted(set(servers) & set(empty)):
        for shard in sorted(held[source], key=lambda shard: (-held[source][shard], shard)):
            move(shard, source, min(stays, key=lambda server: (loads[server], server)))
    mean = sum(loads[server] for server in stays) / len(stays)
    bounds = [_Bound(each, held, stays) for each in bounded]
    while len(moves) < moves_max:
        most = max(stays, key=lambda server: (loads[server], server))
        apart = loads[most] - min(loads[server] for server in stays)
        if apart <= gain_min * mean or (not moves and apart <= apart_min * mean):
            break
        found = _best(held, loads, stays, most, gain_min * mean, bounds)
        if found is None:
            break
        move(found[0], most, found[1])
    return _once(moves)


def _once(moves: Sequence[PlannedMove]) -> tuple[PlannedMove, ...]:
    """A shard that would move on moves there at once."""
    found: dict[int, PlannedMove] = {}
    for move in moves:
        found[move.shard] = PlannedMove(
            move.shard, found[move.shard].source if move.shard in found else move.source, move.target, move.weight
        )
    return tuple(move for move in found.values() if move.source != move.target)


class _Bound:
    """What no server may come to have of one weight."""

    def __init__(
        self, weights: Mapping[int, float], held: Mapping[str, Mapping[int, float]], stays: Sequence[str]
    ) -> None:
        self._weights = weights
        now = [self._of(held[server]) for server in stays]
        self._most = max(*now, (1 + WORSE_MAX) * sum(now) / len(now))

    def _of(self, shards: Mapping[int, float]) -> float:
        return sum(self._weights.get(shard, 0.0) for shard in shards)

    def allows(self, shard: int, target: Mapping[int, float]) -> bool:
        return self._of(target) + self._weights.get(shard, 0.0) <= self._most


def _best(
    held: Mapping[str, Mapping[int, float]],
    loads: Mapping[str, float],
    stays: Sequence[str],
    most: str,
    gain_min: float,
    bounds: Sequence[_Bound],
) -> tuple[int, str] | None:
    """The shard to take from the server that carries most, and where to: where least is carried, if it may go there."""
    for target in sorted(stays, key=lambda server: (loads[server], server)):
        apart = loads[most] - loads[target]
        # Of shards that are lighter than what the two are apart, the one that leaves them closest.
        better = [
            shard
            for shard, weight in held[most].items()
            if weight < apart
            and apart - abs(apart - 2 * weight) > gain_min
            and all(bound.allows(shard, held[target]) for bound in bounds)
        ]
        if better:
            return min(better, key=lambda shard: (abs(apart - 2 * held[most][shard]), shard)), target
    return None


def plan_by(
    by: By,
    owners: Sequence[str],
    sizes: Mapping[int, float],
    loads: Mapping[int, float],
    servers: Collection[str],
    empty: Collection[str] = (),
    moves_max: int = MOVES_MAX,
) -> tuple[PlannedMove, ...]:
    """As `plan`, by what shards hold (`sizes`), what is read and written in them (`loads`), or both alike."""
    if by == "rows" or sum(loads.values()) < (LOAD_MIN_PER_S if by == "both" else 1e-9):
        return plan(owners, sizes, servers, empty, moves_max)
    size, load = _shares(sizes), _shares(loads)
    carried = {shard: load[shard] + (size.get(shard, 0) if by == "both" else 0) for shard in load}
    if by == "both":
        carried |= {shard: share for shard, share in size.items() if shard not in load}
    return plan(
        owners,
        {shard: float(1 + carried.get(shard, 0)) for shard in range(len(owners))},
        servers,
        empty,
        moves_max,
        apart_min=APART_MIN,
        gain_min=LOAD_GAIN_MIN,
        bounded=(size, load),
    )


def _shares(weights: Mapping[int, float]) -> dict[int, int]:
    total = sum(weights.values())
    return {shard: round(_SCALE * weight / total) if total else 0 for shard, weight in weights.items()}
