"""An app whose orders are in shards, and customers who order and keep an account."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
from harness import Running

APP = """
import asyncio
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from headway import database

orders = database("orders")

async def write(request):
    customer, number = request.path_params["customer"], request.path_params["number"]
    async def insert(connection):
        await connection.execute("INSERT INTO orders VALUES ($1, $2, 'ch')", customer, number)
    await orders.run(customer, insert)
    return JSONResponse({"shard": orders.shard_of(customer)})

async def read(request):
    async with orders.at(request.path_params["customer"]) as connection:
        rows = await connection.fetch("SELECT id FROM orders WHERE customer_id = $1", request.path_params["customer"])
    return JSONResponse([row["id"] for row in rows])

async def hold(request):
    async with orders.at(request.path_params["customer"], wait_s=0.1) as connection:
        while not Path("go").exists():
            await asyncio.sleep(0.02)
    return JSONResponse({})

app = Starlette(routes=[
    Route("/hold/{customer:int}", hold),
    Route("/{customer:int}", read),
    Route("/{customer:int}/{number:int}", write, methods=["POST"]),
])
"""
SCHEMA = """
CREATE TABLE countries (code text PRIMARY KEY);
INSERT INTO countries VALUES ('ch');
CREATE TABLE orders (
    customer_id bigint NOT NULL, id bigint NOT NULL, country text REFERENCES countries, PRIMARY KEY (customer_id, id)
);
"""


_DECLARATION = """
[system]
name = "shards"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "shards:app"
routes = ["/"]
replicas = {replicas}
uses = [{uses}]
[databases.orders]
shards = {shards}
servers = 2
keys = {{ orders = "customer_id" }}
reference = ["countries"]
schema = "schema.sql"
{more}
"""
MIGRATIONS = 'migrations = { sql = "migrations" }'


def declaration(*more: str, replicas: int = 1, shards: int = 8, uses: tuple[str, ...] = ("orders",)) -> str:
    """The app on two embedded servers; `more` lines of the database, and after them whole sections."""
    named = ", ".join(f'"{name}"' for name in uses)
    return _DECLARATION.format(replicas=replicas, shards=shards, uses=named, more="\n".join(more))


def write_app(folder: Path) -> Path:
    """Its files, but for the declaration."""
    (folder / "shards.py").write_text(APP)
    (folder / "schema.sql").write_text(SCHEMA)
    (folder / "migrations").mkdir()
    return folder


def databases(system: Running) -> dict[str, object]:
    found: dict[str, object] = json.loads(system.ok("db", "status", "orders", "--json").splitlines()[-1])["databases"][
        "orders"
    ]
    return found


def servers(system: Running) -> dict[str, list[int]]:
    """By server, the shards that are on it."""
    return {server["name"]: server["shards"] for server in databases(system)["servers"]}  # type: ignore[attr-defined]


_BETWEEN_S = 0.02


class Writers:
    """Customers who order, and what was acknowledged to them.

    Each orders some thirty times a second: one of them meets every hand-over, and the machine has time for the rest.
    """

    def __init__(self, system: Running, count: int = 6, first: int = 1, refused_pause_s: float = 0.0) -> None:
        self.acknowledged: dict[int, list[int]] = {customer: [] for customer in range(first, first + count)}
        self.refused: list[str] = []
        self._system = system
        self._refused_pause_s = refused_pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(customer,)) for customer in self.acknowledged]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)

    def _write(self, customer: int) -> None:
        number = 0
        with httpx.Client(base_url=self._system.url, timeout=60) as client:
            while not self._stop.is_set():
                number += 1
                answer = client.post(f"/{customer}/{number}")
                if answer.status_code == 200:
                    self.acknowledged[customer].append(number)
                else:
                    self.refused.append(f"{answer.status_code} {answer.text[:200]}")
                    self._stop.wait(self._refused_pause_s)
                self._stop.wait(_BETWEEN_S)

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    def missing(self) -> dict[int, set[int]]:
        """By customer, what was acknowledged and is not there, or is there and was never acknowledged."""
        found = {}
        for customer, numbers in self.acknowledged.items():
            there = httpx.get(f"{self._system.url}/{customer}", timeout=60).json()
            assert len(there) == len(set(there))
            if wrong := set(there) ^ set(numbers):
                found[customer] = wrong
        return found


def last(text: str) -> Any:
    """The document on the last line of a command's output."""
    return json.loads(text.splitlines()[-1])
