"""The called services for the tests of an app: each a stand-in at a socket of the run's own, called by the real client.

They answer in a thread of their own, over the same unix sockets and ports by which the edge takes calls, so that all of
what a call does is at work: what travels with it, retries, deadlines, circuits. Headway's edge alone is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiohttp import web

from headway.calls.client import service as client
from headway.declaration.calls import by_url, callers
from headway.model.calls import SERVICES_VARIABLE
from headway.model.declared import System
from headway.testing.apps import answer_of
from headway.testing.stand_in import StandIn

_SOCKET_MAX_BYTES = 100  # of a path; Linux takes 107
_START_S, _STOP_S = 20.0, 5.0


class Services:
    """A stand-in for each service that another one calls."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._by_url = by_url(system)
        self.all = MappingProxyType({name: StandIn(name) for name in callers(system)})
        self._sockets: dict[str, str] = {}
        self._ports: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runners: list[web.ServerRunner] = []
        self._folder: Path | None = None  # where the run's own is too deep for a socket

    def start(self, folder: Path) -> None:
        """Open the sockets; they are in `folder` unless its path is too long for that."""
        if not self.all:
            return
        home = folder / "v"
        longest = max(len(name) for name in self.all) + len("/.sock")
        if len(str(home)) + longest > _SOCKET_MAX_BYTES:
            home = self._folder = Path(tempfile.mkdtemp(prefix="headway-", dir="/tmp"))
        home.mkdir(mode=0o700, exist_ok=True)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="headway: stand-ins", daemon=True).start()
        for name, each in self.all.items():
            self._sockets[name] = str(home / f"{name}.sock")
            self._run(self._open(each))

    def stop(self) -> None:
        """Close them."""
        self.let_go()
        loop, self._loop = self._loop, None
        if loop is not None:
            for runner in self._runners:
                with contextlib.suppress(TimeoutError):
                    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(_STOP_S)
            loop.call_soon_threadsafe(loop.stop)
        self._runners = []
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def fields(self) -> dict[str, dict[str, str]]:
        """What references to the services stand for."""
        return {name: {"url": f"http://127.0.0.1:{port}"} for name, port in self._ports.items()}

    def told(self) -> dict[str, str]:
        """What the app is told of them, in its environment."""
        told = {
            name: {"socket": path, "deadline_s": self._system.services[name].deadline_s}
            for name, path in self._sockets.items()
        }
        return {SERVICES_VARIABLE: json.dumps(told)} if told else {}

    def renew(self) -> None:
        """As if nobody had ever called: no answers, no calls, and a client that knows of no failures."""
        for each in self.all.values():
            each.renew()
        self.let_go()

    def let_go(self) -> None:
        """Close what the app keeps open."""
        for name in self.all:
            if (known := client._services.get(name)) is not None:
                known.let_go()

    def complaints(self) -> str:
        """The calls that the test has left without an answer; empty when none."""
        return "\n".join(filter(None, (each.complaint() for each in self.all.values())))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_S)

    async def _open(self, each: StandIn) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return await _answer(each, request)

        server = web.Server(answer, handler_cancellation=True)  # who gives a call up waits for nothing more
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        await web.UnixSite(runner, self._sockets[each.name]).start()
        if each.name in self._by_url:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._ports[each.name] = int(site.name.rpartition(":")[2])


async def _answer(each: StandIn, request: web.BaseRequest) -> web.StreamResponse:
    content = await request.read()
    reply = each.take(request.method, request.raw_path, request.headers.copy(), content)
    if reply is None:
        if each.app is not None:
            return await answer_of(each.app, request, content)
        return web.Response(status=501, text=f"{each.complaint()}\n")
    await asyncio.sleep(reply.delay_s)
    if reply.is_garbage:
        assert request.transport is not None
        request.transport.write(b"no HTTP at all\r\n\r\n")
        request.transport.close()
    return web.Response(status=reply.status or 500, headers=list(reply.headers), body=reply.content)
