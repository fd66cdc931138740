"""A shard that moves while it is written to, an aggregate over all shards, migrations with nothing to do.

Part of `python -m bench databases`. Everything goes the way a user's commands go; the yardsticks run in turn with it,
on the same servers.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg

from bench.database_system import HEADWAY, command, system
from headway.sharding.postgresql import prepare
from headway.sharding.settings import SUPERUSER

ROOT = Path(__file__).resolve().parent.parent
ROWS = 200_000
MOVES, QUICK_MOVES = 50, 6
COPIES = 5
AGGREGATE_ROUNDS, AGGREGATE_TIMES = 5, 200
MANY_SHARDS = 256
SCHEMA = """
CREATE TABLE orders (customer_id bigint NOT NULL, id bigint NOT NULL, note text, count int NOT NULL DEFAULT 0,
                     PRIMARY KEY (customer_id, id));
"""
DECLARATION = """
[system]
name = "bench"

[edge]
bind = ["127.0.0.1:$PORT"]

[databases.orders]
shards = $SHARDS
servers = $SERVERS
keys = { orders = "customer_id" }
schema = "schema.sql"
migrations = { sql = "migrations" }

[services.client]
command = ["sleep", "infinity"]
replicas = 0
uses = ["orders"]
"""


def moving_system(shards: int, servers: int) -> AbstractContextManager[Path]:
    """A system with a sharded database and a migration that it does not have yet."""
    return system(
        {
            "headway.toml": DECLARATION.replace("$SHARDS", str(shards)).replace("$SERVERS", str(servers)),
            "schema.sql": SCHEMA,
            "migrations/0001_paid.sql": "ALTER TABLE orders ADD paid boolean;\n",
        }
    )


def client(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """One of the programs below, with the environment of a service."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.database_moves import work; work(sys.argv[1:])"
    )
    argv = [*HEADWAY, "run", "client", "--", sys.executable, "-c", program, *arguments]
    return subprocess.Popen(argv, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# -- a move -----------------------------------------------------------------------------------------------------------


def moves(count: int) -> str:
    """A shard to and fro between two servers, under writes, and a COPY of its rows beside it."""
    with moving_system(4, 2) as folder:
        command(folder, "db", "migrate", "orders")
        filled = client(folder, "fill")
        shard, key = filled.communicate("\n", timeout=300)[0].split()
        writer = client(folder, "write", key)
        assert writer.stdout is not None
        if writer.stdout.readline() != "ready\n":
            raise RuntimeError("the client that writes did not start")
        done: list[dict[str, float]] = []
        copied_per_s: list[float] = []
        try:
            for number in range(count):
                source = owner_of(folder, int(shard))
                target = next(server for server in ("s1", "s2") if server != source)
                if number % max(1, count // COPIES) == 0:
                    copied_per_s.append(copy_pipe(folder, source, target, int(shard)))
                said = command(folder, "db", "move", "orders", shard, "--to", target, "--json")
                done.append(json.loads(said.splitlines()[-1]))
        finally:
            told = writer.communicate("\n", timeout=60)[0]
    wrote = json.loads(told)
    pauses_ms = sorted(one["write_pause_ms"] for one in done)
    moved_per_s = statistics.median(one["rows"] / one["copy_s"] for one in done)
    copy_per_s = statistics.median(copied_per_s)
    return "\n".join(
        [
            "| what | outcome |",
            "|---|---|",
            f"| moves of one shard between two servers, {ROWS:,} rows, under {wrote['per_s']:.0f} writes/s | {count} |",
            f"| rows/s of the copy (median) | {moved_per_s:,.0f}, {moved_per_s / copy_per_s:.2f} of a plain "
            f"COPY … TO, COPY … FROM into a table with the same key ({copy_per_s:,.0f}) |",
            f"| write pause, p50 / p99 / max | {statistics.median(pauses_ms):.0f} / "
            f"{pauses_ms[min(len(pauses_ms) - 1, int(len(pauses_ms) * 0.99))]:.0f} / {pauses_ms[-1]:.0f} ms |",
            f"| longest a writer waited through `run`, p99.9 of all | {wrote['max_ms']:.0f} ms, "
            f"{wrote['p999_ms']:.0f} ms |",
            f"| errors seen by the writers | {wrote['errors']} of {wrote['writes']:,} |",
            f"| writes lost, doubled, invented | {wrote['lost']}, {wrote['doubled']}, {wrote['invented']} |",
        ]
    )


def owner_of(folder: Path, shard: int) -> str:
    """Which server has a shard, by `headway db status --json`."""
    told = json.loads(command(folder, "db", "status", "orders", "--json").splitlines()[-1])
    return next(str(one["name"]) for one in told["databases"]["orders"]["servers"] if shard in one["shards"])


def administrator(folder: Path, server: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection to an embedded server by its private socket."""
    data_folder = prepare(folder / ".headway", Path("/tmp"), system="bench", name=f"orders.{server}").data_folder
    lines = (data_folder / "postmaster.pid").read_text().splitlines()
    return psycopg.connect(host=lines[4], port=int(lines[3]), user=SUPERUSER, dbname="orders")


def copy_pipe(folder: Path, source: str, target: str, shard: int) -> float:
    """Rows a second of a plain COPY from one server to another, into a table with the same primary key."""
    table = f"orders_{shard:04d}.orders"
    with administrator(folder, source) as left, administrator(folder, target) as right:
        right.execute(
            "CREATE TABLE public.copied (customer_id bigint NOT NULL, id bigint NOT NULL, note text, "
            "count int NOT NULL DEFAULT 0, paid boolean, PRIMARY KEY (customer_id, id))"
        )
        began_s = time.monotonic()
        rows = 0
        out_sql = f"COPY {table} TO STDOUT"
        with left.cursor() as reads, right.cursor() as writes:
            with reads.copy(out_sql) as out, writes.copy("COPY public.copied FROM STDIN") as into:
                for data in out:
                    into.write(data)
            rows = writes.rowcount
        right.commit()
        took_s = time.monotonic() - began_s
        right.execute("DROP TABLE public.copied")
        right.commit()
    return rows / took_s


# -- over all shards --------------------------------------------------------------------------------------------------


def aggregate() -> str:
    """A count with conditions over 64 shards on four servers, and the same written by hand."""
    with moving_system(64, 4) as folder:
        command(folder, "db", "migrate", "orders")
        done = client(folder, "aggregate").communicate("\n", timeout=300)[0]
    told = json.loads(done)
    lines = ["| a sum by group over 64 shards on 4 servers | p50 ms | ratio |", "|---|---|---|"]
    by_hand = statistics.median(told["by_hand"])
    for label, name in (
        ("one UNION ALL a server, with parameters, written by hand", "by_hand"),
        ("`everywhere`", "everywhere"),
        ("64 statements, one after the other", "one_by_one"),
    ):
        middle = statistics.median(told[name])
        lines.append(f"| {label} | {middle * 1000:.1f} | {middle / by_hand:.2f} |")
    return "\n".join(lines)


def migrate() -> str:
    """Migrations of 256 shards when there is nothing to do."""
    with moving_system(MANY_SHARDS, 2) as folder:
        began_s = time.monotonic()
        command(folder, "db", "migrate", "orders")
        first_s = time.monotonic() - began_s
        nothing_s = []
        for _ in range(COPIES):
            began_s = time.monotonic()
            command(folder, "db", "migrate", "orders")
            nothing_s.append(time.monotonic() - began_s)
    return (
        f"One migration (`ALTER TABLE … ADD`) over {MANY_SHARDS} shards on 2 servers: {first_s:.1f} s. Again, with "
        f"nothing to do: {statistics.median(nothing_s):.2f} s (median of {COPIES}, the command's start included)."
    )


# -- what runs in the environment of a service ------------------------------------------------------------------------


async def fill() -> None:
    """Many rows into one shard; its number and a key of it are printed."""
    from headway import database

    orders = database("orders")
    key = 42
    shard = orders.shard_of(key)
    mine = [number for number in range(1, 4000) if orders.shard_of(number) == shard]
    each = ROWS // len(mine)
    async with orders.at(key) as connection:
        records = ((customer, -1 - number, "n" * 120, 0) for customer in mine for number in range(each))
        await connection.copy_records_to_table(
            "orders", records=records, columns=["customer_id", "id", "note", "count"]
        )
    print(shard, key, flush=True)


async def write(key: int) -> None:
    """Two tasks insert and update rows of one key until a line comes; then every acknowledged write is looked for."""
    from headway import database

    orders = database("orders")
    stop = asyncio.Event()
    acknowledged: dict[int, int] = {}
    took_s: list[float] = []
    errors = 0

    async def insert(connection: object, number: int) -> None:
        await connection.execute(  # type: ignore[attr-defined]
            "INSERT INTO orders (customer_id, id, note, count) VALUES ($1, $2, 'new', 1)", key, number
        )

    async def add(connection: object, number: int) -> None:
        await connection.execute(  # type: ignore[attr-defined]
            "UPDATE orders SET count = count + 1 WHERE customer_id = $1 AND id = $2", key, number
        )

    async def writer(first: int) -> None:
        nonlocal errors
        number = first
        while not stop.is_set():
            number += 2
            for work in (insert, add):
                began_s = time.monotonic()
                try:
                    await orders.run(key, work, number)
                except Exception:  # counted, whatever it is
                    errors += 1
                    break
                took_s.append(time.monotonic() - began_s)
                acknowledged[number] = acknowledged.get(number, 0) + 1
            await asyncio.sleep(0.005)

    began_s = time.monotonic()
    writers = [asyncio.create_task(writer(number)) for number in (1, 2)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    stop.set()
    await asyncio.gather(*writers)
    lasted_s = time.monotonic() - began_s
    async with orders.at(key) as connection:
        found = dict(await connection.fetch("SELECT id, count FROM orders WHERE customer_id = $1 AND id > 0", key))
    took_s.sort()
    told = {
        "writes": len(took_s),
        "per_s": len(took_s) / lasted_s,
        "errors": errors,
        "max_ms": took_s[-1] * 1000,
        "p999_ms": took_s[int(len(took_s) * 0.999)] * 1000,
        "lost": sum(1 for number, count in acknowledged.items() if found.get(number, 0) < count),
        "doubled": sum(1 for number, count in found.items() if count > acknowledged.get(number, 0) + (errors > 0)),
        "invented": max(0, sum(1 for number in found if number not in acknowledged) - errors),
    }
    print(json.dumps(told), flush=True)


async def compare() -> None:
    """The aggregate in three ways, in turn."""
    import asyncpg

    from headway import database

    orders = database("orders")
    sql = "SELECT id % 3 AS third, count(*) AS n, sum(count) AS total FROM orders WHERE count > $1 GROUP BY id % 3"
    for key in range(2000):
        async with orders.at(key) as connection:
            await connection.execute(
                "INSERT INTO orders (customer_id, id, count) SELECT $1, n, n FROM generate_series(1, 5) n", key
            )
    await orders.everywhere(sql, 0)
    map_ = orders._places.map
    assert map_ is not None
    by_server = {name: map_.on(name) for name in map_.servers}
    urls = {name: orders._places.url(map_, name) for name in map_.servers}
    connections = {name: await asyncpg.connect(url) for name, url in urls.items()}

    def one(shard: int) -> str:
        return (
            f"SELECT id % 3 AS third, count(*) AS n, sum(count) AS total FROM orders_{shard:04d}.orders "
            "WHERE count > $1 GROUP BY id % 3"
        )

    async def by_hand() -> dict[int, tuple[int, int]]:
        async def ask(name: str) -> list[tuple[int, int, int]]:
            rows = await connections[name].fetch("\nUNION ALL\n".join(map(one, by_server[name])), 0)
            return [tuple(row) for row in rows]

        return put_together(await asyncio.gather(*map(ask, connections)))

    async def one_by_one() -> dict[int, tuple[int, int]]:
        parts = []
        for name, shards in by_server.items():
            for shard in shards:
                parts.append([tuple(row) for row in await connections[name].fetch(one(shard), 0)])
        return put_together(parts)

    async def everywhere() -> dict[int, tuple[int, int]]:
        return {row["third"]: (row["n"], int(row["total"])) for row in await orders.everywhere(sql, 0)}

    ways = {"by_hand": by_hand, "everywhere": everywhere, "one_by_one": one_by_one}
    answers = [await way() for way in ways.values()]
    assert answers[0] == answers[1] == answers[2], answers
    told: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(AGGREGATE_ROUNDS):
        for name, way in ways.items():
            took_s = []
            for _ in range(AGGREGATE_TIMES if name != "one_by_one" else AGGREGATE_TIMES // 10):
                began_s = time.monotonic()
                await way()
                took_s.append(time.monotonic() - began_s)
            told[name].append(statistics.median(took_s))
    print(json.dumps(told), flush=True)


def put_together(parts: list[list[tuple[int, int, int]]]) -> dict[int, tuple[int, int]]:
    """The groups of all servers as one."""
    totals: dict[int, tuple[int, int]] = {}
    for third, count, total in (row for rows in parts for row in rows):
        seen = totals.get(third, (0, 0))
        totals[third] = (seen[0] + count, seen[1] + int(total))
    return totals


def work(arguments: list[str]) -> None:
    """One of the programs above."""
    import uvloop

    match arguments:
        case ["fill"]:
            uvloop.run(fill())
        case ["write", key]:
            uvloop.run(write(int(key)))
        case _:
            uvloop.run(compare())
