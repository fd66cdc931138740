"""A database that everybody comes to at once, and what it costs to find a key's shard: `python -m bench databases`.

Every figure is that of fresh processes against one PostgreSQL, the kinds in turn within a round; ratios are medians
over the rounds, to the yardstick in the same round.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import timeit
import uuid
from pathlib import Path

from bench import database_moves
from bench.database_system import HEADWAY, command, system
from headway.sharding.keys import shard_of
from headway.sharding.postgresql import administer, prepare

HERE = Path(__file__).resolve().parent
ROUNDS, QUICK_ROUNDS = 3, 1
SECONDS = 4.0
STORM_SECONDS = 6.0
PROCESSES, CLIENTS = 8, 250
DIRECT_CONNECTIONS = PROCESSES * CLIENTS + 100
DECLARATION = """
[system]
name = "bench"

[edge]
bind = ["127.0.0.1:$PORT"]

[databases.orders]
shards = 64
servers = 1
keys = { orders = "customer_id" }
schema = "schema.sql"

[services.client]
command = ["sleep", "infinity"]
replicas = 0
uses = ["orders"]
"""
SCHEMA = """
CREATE TABLE orders (customer_id bigint NOT NULL, id bigint NOT NULL, note text, count int NOT NULL DEFAULT 0,
                     PRIMARY KEY (customer_id, id));
"""
ACCESS = {
    "asyncpg pool of 8 pinned to one schema, no reset": "pinned:8",
    "the same with asyncpg's default reset": "pool:8",
    "two connections for each of 8 shards in a list, nothing else": "bare:/8",
    "`at(key)`, keys of 8 shards, 64 connections kept": "headway:64/8",
    "the same for 16 shards": "bare:/16",
    "`at(key)`, keys of 16 shards, 64 connections kept": "headway:64/16",
    "the same for 64 shards": "bare:",
    "`at(key)`, keys of all 64 shards, 64 connections kept": "headway:64",
    "`at(key)`, keys of all 64 shards, 8 connections kept": "headway:8",
}


def measured(folder: Path, kind: str, processes: int, tasks: int, seconds: float, work: str) -> dict[str, float]:
    """What `processes` clients did together."""
    argv = [sys.executable, str(HERE / "database_client.py"), kind, str(tasks), str(seconds), work]
    clients = [
        subprocess.Popen(
            [*HEADWAY, "run", "client", "--", *argv],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    try:
        for client in clients:
            assert client.stdout is not None
            if client.stdout.readline() != "ready\n":
                raise RuntimeError(f"{kind}: a client ended with status {client.wait(10)}")
        for client in clients:  # all of them before the first is waited for
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        done = [json.loads(client.communicate(timeout=seconds + 180)[0]) for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.wait()
    return {
        "per_s": sum(one["per_s"] for one in done),
        "p50_ms": statistics.median(one["p50_ms"] for one in done),
        "p99_ms": max(one["p99_ms"] for one in done),
    }


def access(folder: Path, rounds: int) -> str:
    """The way to a key's connection, by what it costs a primary-key select."""
    lines = ["| way | 8 tasks, ratio | /s | 1 task, ratio | p50 µs |", "|---|---|---|---|---|"]
    found: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {kind: [] for kind in ACCESS.values()}
    for _ in range(rounds):
        for kind in found:
            many = measured(folder, kind, 1, 8, SECONDS, "select")
            found[kind].append((many, measured(folder, kind, 1, 1, SECONDS, "select")))
    yardstick = found["pinned:8"]
    for label, kind in ACCESS.items():
        several = [one[0]["per_s"] / base[0]["per_s"] for one, base in zip(found[kind], yardstick, strict=True)]
        single = [one[1]["per_s"] / base[1]["per_s"] for one, base in zip(found[kind], yardstick, strict=True)]
        per_s = statistics.median(one[0]["per_s"] for one in found[kind])
        p50_us = statistics.median(one[1]["p50_ms"] for one in found[kind]) * 1000
        lines.append(
            f"| {label} | {statistics.median(several):.2f} | {per_s:,.0f} | {statistics.median(single):.2f} "
            f"| {p50_us:.0f} |"
        )
    return "\n".join(lines)


HOT_ROWS = """
import asyncio
from headway import database
async def insert(connection):
    for number in range(5):
        await connection.execute("INSERT INTO orders VALUES (42, $1) ON CONFLICT DO NOTHING", number)
asyncio.run(database("orders").run(42, insert))
"""


def storms(folder: Path, rounds: int) -> str:
    """Everybody at once on five hot rows."""
    command(folder, "run", "client", "--", sys.executable, "-c", HOT_ROWS)
    kinds = {
        "one process, asyncpg pool of 4, 200 clients": ("pinned:4", 1, 200),
        f"direct connections, {PROCESSES} processes, {PROCESSES * CLIENTS:,} clients": ("direct", PROCESSES, CLIENTS),
        f"`at(key)`, {PROCESSES} processes, {PROCESSES * CLIENTS:,} clients": ("headway", PROCESSES, CLIENTS),
    }
    found: dict[str, list[dict[str, float]]] = {label: [] for label in kinds}
    for _ in range(rounds):
        for label, (kind, processes, tasks) in kinds.items():
            found[label].append(measured(folder, kind, processes, tasks, STORM_SECONDS, "storm"))
    first, direct, _ = found.values()
    lines = ["| | tx/s | to the pool | to direct | p99 s |", "|---|---|---|---|---|"]
    for label, several in found.items():
        to_pool = statistics.median(one["per_s"] / base["per_s"] for one, base in zip(several, first, strict=True))
        to_direct = statistics.median(
            one["per_s"] / max(0.1, base["per_s"]) for one, base in zip(several, direct, strict=True)
        )
        per_s = statistics.median(one["per_s"] for one in several)
        p99_s = statistics.median(one["p99_ms"] for one in several) / 1000
        lines.append(f"| {label} | {per_s:,.0f} | {to_pool:.2f} | {to_direct:.1f} | {p99_s:.2f} |")
    return "\n".join(lines)


def lookups() -> str:
    """Key → server in the process, all in."""
    from headway.model.sharding import ShardMap, ShardServer, TableKey, spread
    from headway.sharding.client.place import Places
    from headway.sharding.client.told import Told

    keys: dict[str, object] = {"int": 123_456_789, "text": "customer-123", "uuid": uuid.uuid4()}
    lines = ["| key | µs |", "|---|---|"]
    for kind, key in keys.items():
        servers = {name: ShardServer(name, "postgresql://127.0.0.1/orders") for name in ("s1", "s2")}
        map_ = ShardMap("orders", 1, spread(64, tuple(servers)), servers, {"orders": TableKey("key", kind)})  # type: ignore[arg-type]
        places = Places(Told("orders", True, "postgresql://127.0.0.1/orders", {}, 4))
        assert shard_of(key, 64, kind) == places.find(map_, key).shard  # type: ignore[arg-type]
        best_s = min(timeit.repeat(lambda: places.find(map_, key), number=20_000, repeat=5)) / 20_000  # noqa: B023
        lines.append(f"| {kind} | {best_s * 1e6:.1f} |")
    return "\n".join(lines)


def _allow_direct(folder: Path) -> None:
    """As many connections as clients: what an app without a bound would want from its database."""
    server = prepare(folder / ".headway", Path("/tmp"), system="bench", name="orders.s1")
    done = administer(server, f"ALTER SYSTEM SET max_connections = {DIRECT_CONNECTIONS};")
    if done.status:
        raise RuntimeError(done.stderr)
    command(folder, "down")
    time.sleep(1)
    command(folder, "up", "--detach")


def run(quick: object = None) -> str:
    """The section's text."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with system({"headway.toml": DECLARATION, "schema.sql": SCHEMA}) as folder:
        table = access(folder, rounds)
        _allow_direct(folder)
        storm = storms(folder, rounds)
    moving = database_moves.moves(database_moves.QUICK_MOVES if quick else database_moves.MOVES)
    beyond, migrating = database_moves.aggregate(), database_moves.migrate()
    return f"""\
`orders` has 64 shards on one embedded PostgreSQL. A client selects one row by its primary key, in its own process.

{table}

The storm: every transaction updates two of five hot rows, in the same order. Four transactions work at once with
`at(key)`, over all processes; the others wait in order.

{storm}

Key to server, in the process:

{lookups()}

A shard that moves while it is written to, by `headway db move`:

{moving}

Beyond one shard:

{beyond}

{migrating}
"""
