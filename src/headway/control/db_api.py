"""The control API of sharded databases: what they are, and long work on them as tasks to be followed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headway.control.departing import Departures
from headway.control.migrating import Asked
from headway.control.servers import Servers
from headway.control.tasks import Tasks, Work
from headway.control.tender import Tender
from headway.control.weighing import told_plan
from headway.errors import EngineError, HeadwayError
from headway.runtimes.local.sharded import ShardedDatabase
from headway.sharding.admin import connect
from headway.sharding.rebalance import BYS, By
from headway.sharding.repair import parse_keep
from headway.sharding.requirements import FACTS, Finding, ServerFacts, findings

Endpoint = Callable[[Request], Awaitable[Response]]
Body = Callable[[Request], Awaitable[dict[str, Any]]]


FOR_PLAIN = ("backup", "restore", "migrate")  # what can be done to a database that is not sharded
PlainWork = Callable[[str, str, Mapping[str, Any]], Work | None]


def routes(
    tenders: Callable[[], Mapping[str, Tender]],
    plain_work: PlainWork,
    plain_names: Callable[[], Sequence[str]],
    not_up: Callable[[], Mapping[str, str]],
    tasks: Tasks,
    servers: Servers,
    departures: Departures,
    body: Body,
    told: Callable[[Endpoint], Endpoint],
) -> list[Route]:
    """Its routes; `body` reads a request, `told` turns errors into answers, `plain_work` is what can be done to a
    database that is not sharded, None where it is; `plain_names` are those that are not; `not_up` are the states of
    sharded ones that nobody looks after yet: at their start, and for a moment while their servers change."""

    def tender(name: object, verb: str = "") -> Tender:
        known, plain = tenders(), plain_names()
        if name in known:
            return known[str(name)]
        if name in (coming := not_up()):
            raise EngineError(
                f"database {name} cannot be asked yet: its state is {coming[str(name)]}", hint="headway status says why"
            )
        if name in plain:
            raise HeadwayError(
                f"database {name} is not sharded, and this is about shards",
                hint=f"{', '.join(FOR_PLAIN)} and shell of headway db are for it, too.",
            )
        if verb in FOR_PLAIN and (known or plain):
            raise HeadwayError(
                f"there is no database {name!r} that is up", hint=f"There is: {', '.join((*known, *plain))}."
            )
        names = ", ".join(known)
        if not known:
            raise HeadwayError(
                "this system has no sharded database that is up", hint="headway status; shards = 64 declares one"
            )
        raise HeadwayError(f"there is no sharded database {name!r} that is up", hint=f"There is: {names}.")

    async def looked_up(name: object, verb: str = "") -> Tender:
        # The loop may have to be asked for who looks after it, and has other things to do: nobody else waits for that.
        return await asyncio.to_thread(tender, name, verb)

    async def status(request: Request) -> Response:
        name = request.query_params.get("database")
        wanted = {name: await looked_up(name)} if name else await asyncio.to_thread(tenders)
        found = {
            each: {
                **await asyncio.to_thread(one.status),
                "departing": await asyncio.to_thread(departures.status, each),
            }
            for each, one in wanted.items()
        }
        return JSONResponse({"databases": found})

    async def verify(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread((await looked_up(request.query_params.get("database"))).verify))

    async def check(request: Request) -> Response:
        one = await looked_up(request.query_params.get("database"))
        found = await asyncio.to_thread(requirements_of, one.database)
        return JSONResponse({"servers": {name: [asdict(each) for each in told] for name, told in found.items()}})

    async def plan(request: Request) -> Response:
        one = await looked_up(request.query_params.get("database"))
        leaves = departures.server(one.name)
        empty = list(request.query_params.getlist("empty"))
        if leaves and leaves not in empty and leaves not in one.database.away_now():
            empty.append(leaves)
        by, over_s = _by(request.query_params.get("by", "rows")), float(request.query_params.get("over_s", "0"))
        return JSONResponse(told_plan(*await asyncio.to_thread(one.plan, tuple(empty), by, over_s)))

    async def leaving(request: Request) -> Response:
        await looked_up(name := str(request.query_params.get("database")))
        server = str(request.query_params.get("server"))
        return JSONResponse({"moves": await asyncio.to_thread(departures.plan, name, server)})

    async def abort(request: Request) -> Response:
        data = await body(request)
        one = await looked_up(data.get("database"))
        if data.get("server") is not None:
            return JSONResponse(await asyncio.to_thread(departures.abort, one.name, str(data["server"])))
        if data.get("shard") is None:
            return JSONResponse(await asyncio.to_thread(one.splits.abort))
        return JSONResponse(await asyncio.to_thread(one.abort, int(data["shard"])))

    async def begin(request: Request) -> Response:
        data = await body(request)
        verb = request.path_params["verb"]
        name = data.get("database")
        work = await asyncio.to_thread(plain_work, str(name), verb, data)
        if work is None:
            one = await looked_up(name, verb)
            work = _of_servers(servers, departures, verb, data) or _work(one, verb, data)
            for target in _targets(verb, data):
                departures.refuse_moves_to(one.name, target)
        return JSONResponse({"task": tasks.begin(f"db {verb}", work).number})

    async def task(request: Request) -> Response:
        found = tasks.find(int(request.path_params["number"]))
        return JSONResponse(found.document(int(request.query_params.get("after", "0"))))

    return [
        Route("/db", told(status)),
        Route("/db/verify", told(verify)),
        Route("/db/check", told(check)),
        Route("/db/plan", told(plan)),
        Route("/db/leaving", told(leaving)),
        Route("/db/abort", told(abort), methods=["POST"]),
        Route("/db/{verb:str}", told(begin), methods=["POST"]),
        Route("/tasks/{number:int}", told(task)),
    ]


def _by(word: str) -> By:
    for by in BYS:
        if by == word:
            return by
    raise HeadwayError(f"--by {word}: there is {', '.join(BYS)}", hint="headway db rebalance --help")


def requirements_of(database: ShardedDatabase) -> dict[str, tuple[Finding, ...]]:
    """What every server says of itself, against what is needed."""
    wanted = database.wanted.idle_max * 4 + database.wanted.active_max
    found: dict[str, tuple[Finding, ...]] = {}
    for name in database.servers:
        try:
            with connect(database.admin_of(name)) as connection:
                row: Any = connection.execute(FACTS).fetchone()
        except EngineError as error:  # the others are told all the same
            found[name] = (Finding("the server answers", "missing", error.message, error.hint or "headway status"),)
            continue
        found[name] = findings(ServerFacts(*row), wanted)
    return found


def _targets(verb: str, data: Mapping[str, Any]) -> set[str]:
    """Where shards are to go."""
    if verb == "move":
        return {str(data["to"])}
    return {str(each["target"]) for each in data["moves"]} if verb == "rebalance" else set()


def _of_servers(servers: Servers, departures: Departures, verb: str, data: Mapping[str, Any]) -> Work | None:
    database = str(data.get("database"))
    if verb == "add-server":
        name, url = data.get("name"), data.get("url")
        environ = {str(variable): str(value) for variable, value in data.get("environ", {}).items()}
        departures.refuse_others(database, "another server")
        return lambda say, _stop: servers.add(database, name, url, environ, say)
    if verb == "remove-server":
        server = str(data["server"])
        return lambda say, stop: departures.remove(database, server, say, stop)
    return None


def _work(one: Tender, verb: str, data: Mapping[str, Any]) -> Work:
    if verb == "move":
        shard, target = int(data["shard"]), str(data["to"])
        return lambda say, stop: one.move(shard, target, say, stop)
    if verb == "split":
        return one.splits.split
    if verb == "repair":
        keep, apply = parse_keep(list(map(str, data.get("keep", ())))), bool(data.get("apply"))
        return lambda say, stop: one.repairs.repair(keep, say, stop, apply=apply)
    if verb == "import":
        if data.get("switch"):
            return one.imports.switch
        if data.get("abort"):
            return one.imports.abort
        given = str(data.get("from") or "")
        return lambda say, stop: one.imports.begin(given, say, stop)
    if verb == "backup":
        place = Path(str(data["folder"]))
        return lambda say, stop: one.backups.take(place, say, stop)
    if verb == "restore":
        if data.get("abort"):
            return one.restores.abort
        place, is_replacing = Path(str(data["folder"])), bool(data.get("replace"))
        return lambda say, stop: one.restores.begin(place, is_replacing, say, stop)
    if verb == "rebalance":
        steps = [(int(each["shard"]), str(each["source"]), str(each["target"])) for each in data["moves"]]
        return lambda say, stop: one.rebalance(steps, say, stop)
    if verb == "migrate":
        asked = Asked.of(data)
        return lambda say, _stop: one.migrate(asked, say)
    raise HeadwayError(f"there is nothing called db {verb}", hint="headway db --help")
