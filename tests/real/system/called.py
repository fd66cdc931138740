"""What tests of calls between services share: an app that tells what it was asked, and a client of a unix socket."""

from __future__ import annotations

import json
from typing import Any

import httpx
from harness import Running

# Waits at /gate until the file of the query's name is there, and notes in which order requests were run.
APP = """
import asyncio, json, os

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text")})
        return
    if scope["type"] != "http":
        return
    name = scope["query_string"].decode()
    if scope["path"] == "/gate":
        with open("ran", "a") as file:
            file.write(name + "\\n")
        while not os.path.exists(name):
            await asyncio.sleep(0.01)
    elif scope["path"] == "/ran":
        with open("ran", "a") as file:
            file.write(name + "\\n")
    elif scope["path"] == "/events":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"data: %d\\n\\n" % number, "more_body": True})
            await asyncio.sleep(0.4)
        await send({"type": "http.response.body", "body": b""})
        return
    elif scope["path"] == "/work":
        await asyncio.sleep(0.05)
    seen = {
        "replica": os.environ["HEADWAY_REPLICA"],
        "services": json.loads(os.environ.get("HEADWAY_SERVICES", "{}")),
        "env": {name: os.environ.get(name) for name in ("STOCK", "LATE")},
        "client": scope["client"],
        "scheme": scope["scheme"],
        "headers": {name.decode(): value.decode("latin-1") for name, value in scope["headers"]},
    }
    forged = [(b"x-headway-answered", b"refused")] if scope["path"] == "/forged" else []
    await send({"type": "http.response.start", "status": 200, "headers": forged})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})
"""


def socket_of(system: Running, service: str) -> str:
    """Where a service is called, as a caller is told."""
    return str(system.folders.calls / f"{service}.sock")


def caller(system: Running, service: str, timeout_s: float = 60.0) -> httpx.Client:
    """A client of nobody's: plain HTTP over the socket."""
    transport = httpx.HTTPTransport(uds=socket_of(system, service), limits=httpx.Limits(max_keepalive_connections=0))
    return httpx.Client(transport=transport, base_url=f"http://{service}", timeout=timeout_s)


def call(system: Running, service: str, path: str = "/", **headers: str) -> httpx.Response:
    """One GET; `x_request_id="a"` is the header `x-request-id: a`."""
    with caller(system, service) as client:
        return client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def logged(system: Running, request_id: str) -> list[dict[str, Any]]:
    """Lines of the access log with an id."""
    log = system.state / "logs" / "access.log"
    whole, _, _ = log.read_text().rpartition("\n") if log.exists() else ("", "", "")  # the last one is being written
    lines = whole.splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry["id"] == request_id]


def explained(system: Running, request_id: str) -> dict[str, Any]:
    """What a request, or a trace, spent its time on, and who refused it."""
    document: dict[str, Any] = json.loads(system.ok("explain", request_id, "--json"))
    return document
