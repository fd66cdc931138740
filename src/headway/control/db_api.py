"""The control API of sharded databases: what they are, and long work on them as tasks to be followed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headway.control.tasks import Say, Tasks, Work
from headway.control.tender import Tender
from headway.errors import HeadwayError
from headway.runtimes.local.sharded import ShardedDatabase
from headway.sharding.requirements import FACTS, Finding, ServerFacts, findings
from headway.sharding.shards import connect

Endpoint = Callable[[Request], Awaitable[Response]]
Body = Callable[[Request], Awaitable[dict[str, Any]]]


def routes(
    tenders: Callable[[], Mapping[str, Tender]], tasks: Tasks, body: Body, told: Callable[[Endpoint], Endpoint]
) -> list[Route]:
    """Its routes; `body` reads a request, `told` turns errors into answers."""

    def tender(name: object) -> Tender:
        known = tenders()
        if name in known:
            return known[str(name)]
        names = ", ".join(known)
        if not known:
            raise HeadwayError(
                "this system has no sharded database that is up", hint="headway status; shards = 64 declares one"
            )
        raise HeadwayError(f"there is no sharded database {name!r} that is up", hint=f"There is: {names}.")

    async def status(request: Request) -> Response:
        name = request.query_params.get("database")
        wanted = {name: tender(name)} if name else tenders()
        found = {each: await asyncio.to_thread(one.status) for each, one in wanted.items()}
        return JSONResponse({"databases": found})

    async def verify(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(tender(request.query_params.get("database")).verify))

    async def check(request: Request) -> Response:
        one = tender(request.query_params.get("database"))
        found = await asyncio.to_thread(requirements_of, one.database)
        return JSONResponse({"servers": {name: [asdict(each) for each in told] for name, told in found.items()}})

    async def plan(request: Request) -> Response:
        one = tender(request.query_params.get("database"))
        found = await asyncio.to_thread(one.plan, tuple(request.query_params.getlist("empty")))
        return JSONResponse({"moves": [asdict(move) for move in found]})

    async def abort(request: Request) -> Response:
        data = await body(request)
        one = tender(data.get("database"))
        if data.get("shard") is None:
            return JSONResponse(await asyncio.to_thread(one.splits.abort))
        return JSONResponse(await asyncio.to_thread(one.abort, int(data["shard"])))

    async def begin(request: Request) -> Response:
        data = await body(request)
        one = tender(data.get("database"))
        verb = request.path_params["verb"]
        return JSONResponse({"task": tasks.begin(f"db {verb}", _work(one, verb, data)).number})

    async def task(request: Request) -> Response:
        found = tasks.find(int(request.path_params["number"]))
        return JSONResponse(found.document(int(request.query_params.get("after", "0"))))

    return [
        Route("/db", told(status)),
        Route("/db/verify", told(verify)),
        Route("/db/check", told(check)),
        Route("/db/plan", told(plan)),
        Route("/db/abort", told(abort), methods=["POST"]),
        Route("/db/{verb:str}", told(begin), methods=["POST"]),
        Route("/tasks/{number:int}", told(task)),
    ]


def requirements_of(database: ShardedDatabase) -> dict[str, tuple[Finding, ...]]:
    """What every server says of itself, against what is needed."""
    wanted = database.wanted.idle_max * 4 + database.wanted.active_max
    found = {}
    for server in database.admin():
        with connect(server) as connection:
            row: Any = connection.execute(FACTS).fetchone()
        found[server.name] = findings(ServerFacts(*row), wanted)
    return found


def _work(one: Tender, verb: str, data: Mapping[str, Any]) -> Work:
    if verb == "move":
        shard, target = int(data["shard"]), str(data["to"])
        return lambda say, stop: one.move(shard, target, say, stop)
    if verb == "split":
        return one.splits.split
    if verb == "import":
        if data.get("switch"):
            return one.imports.switch
        if data.get("abort"):
            return one.imports.abort
        given = str(data.get("from") or "")
        return lambda say, stop: one.imports.begin(given, say, stop)
    if verb == "rebalance":
        empty = tuple(map(str, data.get("empty", ())))
        return lambda say, stop: one.rebalance(empty, say, stop)
    if verb == "migrate":
        folder, dry_run = data.get("folder"), bool(data.get("dry_run"))

        def migrate(say: Say, _stop: threading.Event) -> dict[str, Any]:
            return one.migrate(Path(folder) if folder else None, dry_run=dry_run, say=say)

        return migrate
    raise HeadwayError(f"there is nothing called db {verb}", hint="headway db --help")
