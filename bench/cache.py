"""A cached function, by Headway and by what people use today: `python -m bench cache`.

All peers share one Valkey on a unix socket; each figure is that of fresh processes and a fresh server, the peers in
turn within a round, medians over the rounds. Loads, stale values and errors are counts; rates are ratios to a yardstick
in the same round. `BENCH_BLOCK_TRACE=FILE` adds a trace to the hit ratios, `BENCH_ROUNDS=N` sets the rounds.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import cache_hits
from bench.cache_server import asked, clients, server
from bench.markdown import table

ROUNDS, QUICK_ROUNDS = 3, 1
PROCESSES = 4
CALLERS = 500
COLD_LOAD_S = 0.1
LABELS = {
    "headway": "Headway",
    "headway:tagged": "Headway, a tag each",
    "redis-py": "redis-py, GET by hand",
    "cachebox": "cachebox, one process, no TTL",
    "cashews:near": "cashews",
    "cashews:locked": "cashews, lock",
    "cashews:early": "cashews, early",
    "cashews:client side": "cashews, client side",
    "aiocache:near": "aiocache",
    "aiocache:stampede": "aiocache, stampede",
    "fastapi-cache2:near": "fastapi-cache2",
    "django": "Django, threads",
    "django:near": "Django, threads",
    "dogpile": "dogpile.cache, threads",
    "dogpile:near": "dogpile.cache, threads",
}
_GONE_S, _BACK_S, _KILLED_S = 2.0, 5.0, 9.0


def run(quick: object = None) -> str:
    """The section's text."""
    rounds = QUICK_ROUNDS if quick else int(os.environ.get("BENCH_ROUNDS", ROUNDS))
    return f"""\
`python -m bench cache` measures it again; rounds: {rounds}.

A hit in the process, through the decorator, one key and one task, to aiocache:

{near(rounds)}

Hits at the server, through the decorator, 64 tasks with keys of their own, nothing kept in the process, to redis-py's
bare `GET`:

{shared(rounds)}

One cold key, {PROCESSES} processes with {CALLERS} callers each in the same moment, a load of
{COLD_LOAD_S * 1000:.0f} ms:

{cold(rounds)}

Steady readers of one key that lives a second, {PROCESSES} processes with 40 readers each. A refresh is all loads that
begin within 150 ms of one another:

{refresh(rounds)}

Invalidated while it is being loaded: one process changes what is true and invalidates, twice within 10 ms; two others
read all the time. 50 ms later both are asked again, and once more after a second where they are wrong: late is what was
wrong at first, stale what still is. The control is the same without readers in between:

{raced(1000 if quick else 10_000, 200 if quick else 1000)}

The server is killed for {_BACK_S - _GONE_S:.0f} s under steady readers of 200 keys that live 5 s, a load of 20 ms. Slow
is a call of more than 50 ms beyond that, from the kill on:

{killed(rounds)}

Hits in per cent with room for 0.1 / 1 / 10 % of the keys:

{cache_hits.run(bool(quick))}
"""


def _rounds(kinds: Sequence[str], rounds: int, measured: Callable[[str], Any]) -> dict[str, list[Any]]:
    """What was measured of each kind in each round; the kinds in turn."""
    found: dict[str, list[Any]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            found[kind].append(measured(kind))
    return found


def _label(kind: str) -> str:
    return LABELS.get(kind, kind)


def _ratios(kinds: Sequence[str], rounds: int, yardstick: str, measured: Callable[[str], float]) -> str:
    found = _rounds(kinds, rounds, measured)
    rows = []
    for kind in kinds:
        ratio = statistics.median(mine / base for mine, base in zip(found[kind], found[yardstick], strict=True))
        rows.append((_label(kind), f"{ratio:.1f}", f"{statistics.median(found[kind]) / 1000:,.1f}"))
    return table(("ratio", "thousand/s"), rows)


def near(rounds: int) -> str:
    """A hit in the process."""
    kinds = (
        "headway",
        "cachebox",
        "aiocache:near",
        "cashews:near",
        "fastapi-cache2:near",
        "django:near",
        "dogpile:near",
    )

    def measured(kind: str) -> float:
        with server() as at:
            return float(asked(at, kind, [("near", {"seconds": 2.0})], 60)[0]["per_s"])

    return _ratios(kinds, rounds, "aiocache:near", measured)


def shared(rounds: int) -> str:
    """Hits at the server."""
    kinds = ("headway", "headway:tagged", "redis-py", "aiocache", "cashews", "fastapi-cache2", "django", "dogpile")
    task = {"seconds": 3.0, "tasks": 64, "keys": 50}

    def measured(kind: str) -> float:
        with server() as at:
            return float(asked(at, kind, [("shared", task)], 120, near=False)[0]["per_s"])

    return _ratios(kinds, rounds, "redis-py", measured)


def cold(rounds: int) -> str:
    """A stampede for what nobody has."""
    kinds = (
        "headway",
        "cashews",
        "cashews:locked",
        "aiocache",
        "aiocache:stampede",
        "fastapi-cache2",
        "django",
        "dogpile",
    )
    task = {"load_s": COLD_LOAD_S, "rounds": rounds, "apart_s": 6.0, "callers": CALLERS}

    def measured(kind: str) -> list[tuple[int, float, int]]:
        with server() as at:
            found = [one["rounds"] for one in asked(at, kind, [("cold", task)] * PROCESSES, 180)]
        return [
            (sum(one["loads"] for one in each), max(one["last_s"] for one in each), sum(one["errors"] for one in each))
            for each in zip(*found, strict=True)
        ]

    rows = []
    for kind, found in _rounds(kinds, 1 if rounds == QUICK_ROUNDS else 2, measured).items():
        every = [each for one in found for each in one]
        loads = sorted(one[0] for one in every)
        count = f"{loads[0]:,}" if loads[0] == loads[-1] else f"{loads[0]:,} to {loads[-1]:,}"
        last_s = statistics.median(one[1] for one in every)
        rows.append((_label(kind), count, f"{last_s * 1000:,.0f} ms", f"{max(one[2] for one in every):,}"))
    return table(("loads", "all answered after", "errors"), rows)


def refresh(rounds: int) -> str:
    """A value whose time ends again and again, under readers."""
    kinds = ("headway", "cashews", "cashews:locked", "cashews:early", "aiocache", "fastapi-cache2", "django", "dogpile")
    task = {"load_s": COLD_LOAD_S, "ttl_s": 1, "seconds": 12, "readers": 40, "pause_s": 0.1}

    def measured(kind: str) -> tuple[float, float]:
        with server() as at:
            found = asked(at, kind, [("refresh", task)] * PROCESSES, 120)
        moments = sorted(moment for one in found for moment in one["loads"])
        refreshes = 1 + sum(later - earlier > 0.15 for earlier, later in itertools.pairwise(moments))
        took: Counter[float] = Counter()
        for one in found:
            took.update(dict(one["took_ms"]))
        return len(moments) / refreshes, _quantile(took, 0.99)

    rows = []
    for kind, several in _rounds(kinds, rounds, measured).items():
        loads = statistics.median(one[0] for one in several)
        rows.append((_label(kind), f"{loads:,.1f}", f"{statistics.median(one[1] for one in several):,.1f} ms"))
    return table(("loads a refresh", "p99 of readers"), rows)


def _quantile(counts: Counter[float], share: float) -> float:
    left = sum(counts.values()) * share
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return 0.0


def raced(changes: int, of_peers: int) -> str:
    """Values that were invalidated while somebody loaded them."""
    keys = 40

    def measured(kind: str, count: int, races: bool) -> tuple[int, int, int]:
        with server() as at, tempfile.TemporaryDirectory() as folder:
            task = {
                "board": str(Path(folder) / "board"),
                "keys": keys,
                "load_max_s": 0.005,
                "races": races,
                "rounds": count // keys,
                "settle_s": 0.05,
                "readers": 2,
            }
            works = [("invalidates", task), *(("raced", {**task, "number": number}) for number in range(2))]
            writer, *readers = asked(at, kind, works, 600)
            return writer["stale"], max(one["late"] for one in readers), writer["changes"]

    rows = []
    for kind in ("headway:tagged", "cashews", "cashews:client side", "aiocache", "django"):
        stale, late, of = measured(kind, changes if kind == "headway:tagged" else of_peers, True)
        control, _, of_control = measured(kind, of_peers, False)
        rows.append((_label(kind), f"{stale:,} of {of:,}", f"{late:,}", f"{control:,} of {of_control:,}"))
    return table(("stale", "late", "stale in the control"), rows)


def killed(rounds: int) -> str:
    """The server is gone for a while."""
    kinds = ("headway", "cashews", "cashews:client side", "aiocache", "fastapi-cache2", "django", "dogpile")
    task = {
        "load_s": 0.02,
        "ttl_s": 5,
        "keys": 200,
        "readers": 20,
        "pause_s": 0.01,
        "seconds": _KILLED_S,
        "gone_s": _GONE_S,
        "back_s": _BACK_S,
    }

    def measured(kind: str) -> dict[str, float]:
        with server() as at, clients(at, kind, [("killed", task)]) as (client,):
            begin = time.monotonic() + 0.3
            client.begin(begin)
            time.sleep(max(0.0, begin + _GONE_S - time.monotonic()))
            at.kill()
            time.sleep(max(0.0, begin + _BACK_S - time.monotonic()))
            at.start()
            return client.result(120)

    rows = []
    for kind, several in _rounds(kinds, rounds, measured).items():
        origin = statistics.median(one["loads_away"] / max(1, one["calls_away"]) for one in several)
        rows.append(
            (
                _label(kind),
                f"{max(one['errors'] for one in several):,}",
                f"{max(one['slow'] for one in several):,}",
                f"{max(one['slowest_s'] for one in several) * 1000:,.0f} ms",
                f"{origin * 100:.1f} %",
                f"{statistics.median(one['calls_away'] for one in several):,.0f}",
            )
        )
    return table(("errors", "slow", "slowest", "calls that reached the origin", "calls while it was gone"), rows)
