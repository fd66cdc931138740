"""The control API: HTTP and JSON on a unix socket of mode 0600; every command that asks a running system uses it."""

from __future__ import annotations

import asyncio
import json
import os
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from headway.control import caches
from headway.control.apply import Applying
from headway.control.by_hand import HOLD_S, ByHand
from headway.control.controller import Controller
from headway.control.dropped import DroppedCounts
from headway.errors import Conflict, EngineError, HeadwayError
from headway.model.declared import System

_BODY_MAX_BYTES = 1 << 20
_BEGUN_WITHIN_S = 8.0  # a command waits ten seconds: what it has given up must not be carried out after that

Endpoint = Callable[[Request], Awaitable[Response]]


def build(controller: Controller, applying: Applying) -> Starlette:
    """The API of one controller. Errors are {"error": {"message", "hint", "detail"}} with status 400 or 409."""

    by_hand = ByHand(controller)

    async def body(request: Request) -> dict[str, Any]:
        if int(request.headers.get("content-length", "0")) > _BODY_MAX_BYTES:
            raise HeadwayError("the request is too large")
        data = json.loads(await request.body() or b"{}")
        if not isinstance(data, dict):
            raise HeadwayError("the request is not a JSON object")
        return data

    async def call(function: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(controller.call, function, _BEGUN_WITHIN_S)

    async def status(_request: Request) -> Response:
        return JSONResponse(controller.status())

    counts = caches.Counts(controller.caches)
    dropped = DroppedCounts(controller.folders.traces)

    async def metrics(_request: Request) -> Response:
        from headway.control.metrics import metrics_text  # its library takes a while, and most systems never ask

        calls = await asyncio.to_thread(controller.calls.running)
        spans = await asyncio.to_thread(dropped.look)
        text = metrics_text(controller.status(), await asyncio.to_thread(counts.look), calls, spans)
        return JSONResponse({"text": text})

    async def journal(request: Request) -> Response:
        after = int(request.query_params.get("after", "0"))
        entries = [entry for entry in list(controller.journal.recent) if entry["number"] > after]
        return JSONResponse({"pid": os.getpid(), "entries": entries})

    async def databases(_request: Request) -> Response:
        # With passwords: for `headway run`, over a socket that only this user can open.
        return JSONResponse(
            {
                "databases": controller.fields(),
                "access": controller.databases.access(),
                "caches": controller.caches.access(),
                "services": controller.edge.places.told_to_all(controller.applied.system),
                "folder": str(controller.folders.app),
            }
        )

    async def scale(request: Request) -> Response:
        data = await body(request)
        name, count = str(data.get("service")), data.get("replicas", -1)
        number = None if count == "auto" else int(count)
        return JSONResponse(await call(lambda: by_hand.scale(name, number)))

    async def hold(request: Request) -> Response:
        data = await body(request)
        limit, replicas = _number(data.get("limit")), _number(data.get("replicas"))
        for_s, who = float(data.get("for_s", HOLD_S)), str(data.get("by", ""))

        def pin() -> dict[str, Any]:
            return by_hand.hold(data.get("service"), limit=limit, replicas=replicas, for_s=for_s, by=who)

        return JSONResponse(await call(pin))

    async def release(request: Request) -> Response:
        data = await body(request)
        name, who = data.get("service"), str(data.get("by", ""))
        return JSONResponse(await call(lambda: by_hand.release(name, by=who)))

    async def apply(request: Request) -> Response:
        data = await body(request)
        system = System.model_validate(data["system"])
        environ = {str(name): str(value) for name, value in data.get("environ", {}).items()}
        found = await asyncio.to_thread(applying.apply, system, data["root"], data["source"], environ)
        return JSONResponse(found)

    async def reload(_request: Request) -> Response:
        await call(lambda: controller.reload_source("asked by hand"))
        return JSONResponse({})

    async def stop(_request: Request) -> Response:
        await asyncio.to_thread(controller.call, lambda: controller.stop("headway down"))
        return JSONResponse({})

    def of_databases() -> ASGIApp:
        from headway.control import db_api
        from headway.control.departing import Departures
        from headway.control.plain import PlainDatabases
        from headway.control.servers import Servers

        servers = Servers(controller, applying)
        departures = Departures(controller, applying, servers)
        plain = PlainDatabases(
            controller.databases, controller.journal.write, lambda: controller.applied, controller.tended
        )
        return Starlette(
            routes=db_api.routes(
                controller.tended,
                plain,
                plain.names,
                controller.not_up,
                controller.tasks,
                servers,
                departures,
                body,
                _told,
            )
        )

    # With databases at once: a server that is to leave goes on leaving after the death of a controller, whether or not
    # somebody asks; and once another version is installed, what is imported after that would be of the other one.
    later = _Later(of_databases, at_once=bool(controller.departures or controller.applied.system.databases))
    routes = [
        Route("/status", _told(status)),
        Route("/metrics", _told(metrics)),
        Route("/journal", _told(journal)),
        Route("/databases", _told(databases)),
        Route("/scale", _told(scale), methods=["POST"]),
        Route("/hold", _told(hold), methods=["POST"]),
        Route("/release", _told(release), methods=["POST"]),
        Route("/apply", _told(apply), methods=["POST"]),
        Route("/reload", _told(reload), methods=["POST"]),
        Route("/stop", _told(stop), methods=["POST"]),
        *caches.routes(controller.caches, controller.journal.write, body, _told),
        Mount("/", later),
    ]
    return Starlette(routes=routes)


class _Later:
    """A part of the API that takes long to import, and that most systems are never asked for: made when it is."""

    def __init__(self, make: Callable[[], ASGIApp], *, at_once: bool) -> None:
        self._make = make
        self._made = make() if at_once else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._made is None:
            try:
                self._made = self._make()
            except ImportError as error:
                told = HeadwayError(
                    f"another version of Headway was installed since this system was started: {error}",
                    hint="headway down, and headway up",
                )
                return await _error(told, 400)(scope, receive, send)
        return await self._made(scope, receive, send)


def _number(value: object) -> int | None:
    """A number of a request, which may leave it out."""
    return None if value is None else int(str(value))


def _told(endpoint: Endpoint) -> Endpoint:
    """The one place where errors become answers."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Conflict as error:
            return _error(error, 409)
        except HeadwayError as error:
            return _error(error, 400)
        except (ValidationError, KeyError, ValueError) as error:
            return _error(HeadwayError(f"the request is malformed: {error}"), 400)
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "psycopg":  # which most systems never import
                said = str(error).strip().partition("\n")[0] or type(error).__name__
                return _error(EngineError(said, hint="headway status; headway logs"), 400)
            # A defect of ours is told as well, and where it is written down.
            traceback.print_exc()
            told = HeadwayError(
                f"the controller failed: {type(error).__name__}: {error}", hint="headway logs controller"
            )
            return _error(told, 500)

    return answer


def _error(error: HeadwayError, status: int) -> Response:
    told = {"message": error.message, "hint": error.hint, "detail": getattr(error, "detail", "")}
    return JSONResponse({"error": told, "kind": type(error).__name__}, status_code=status)
