"""`headway metrics`: the numbers of a running system for Prometheus and what reads its format."""

from __future__ import annotations

import asyncio

import click
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from headway.cli.start import System
from headway.errors import HeadwayError
from headway.model.bind import Bind
from headway.process.listeners import open_listener

_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_AT_ONCE_MAX = 16  # scrapes; more are told to come later


def show(system: System) -> None:
    """Print the page once."""
    click.echo(_page(system), nl=False)


def serve(system: System, bind: Bind) -> None:
    """Serve it as http://HOST:PORT/metrics until told to end. While the system is away, the answer is 503."""

    async def page(_request: Request) -> Response:
        try:
            return Response(await asyncio.to_thread(_page, system), media_type=_TYPE)
        except HeadwayError as error:
            return PlainTextResponse(f"{error.message}\n{error.hint}\n", 503)

    with open_listener(bind.text, "--listen") as sock:
        click.echo(f"metrics on http://{bind.text}/metrics")
        config = uvicorn.Config(
            Starlette(routes=[Route("/metrics", page)]),
            log_config=None,
            access_log=False,
            lifespan="off",
            http="h11",
            ws="none",
            limit_concurrency=_AT_ONCE_MAX,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        server.run(sockets=[sock])
        if server.should_exit:  # by Ctrl-C, which it mostly passes on, and not when it comes while it ends
            raise KeyboardInterrupt


def _page(system: System) -> str:
    text: str = system.client.ask("GET", "/metrics")["text"]
    return text
