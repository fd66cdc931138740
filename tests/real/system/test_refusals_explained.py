"""Who refused a request and why, asked by its id: a worker at its cap, an open circuit, a budget that is used up."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from called import explained
from harness import Running, wait_for

APP = """
import os
from headway import service

def app(environ, start_response):
    name = os.environ["HEADWAY_SERVICE"]
    if name == "web":
        answer = service(environ["PATH_INFO"].strip("/")).sync.get("/")
        start_response(f"{answer.status_code} As told", [])
        return [answer.content]
    start_response("503 Sick" if name == "sick" else "200 OK", [])
    return [name.encode()]
"""
FULL = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/held":
        await asyncio.wait_for(receive(), 300)
        await asyncio.wait_for(receive(), 300)  # until who asks has gone
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"full"})
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "refused:app"
routes = ["/"]
replicas = 1
uses = ["sick", "gone", "full"]
[services.sick]
app = "refused:app"
replicas = 1
[services.gone]
app = "refused:app"
replicas = 1
[services.full]
app = "full:app"
routes = ["/full"]
replicas = 1
limit = 2
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("refused")
    (folder / "refused.py").write_text(APP)
    (folder / "full.py").write_text(FULL)
    with Running(folder, DECLARATION) as running:
        yield running


def ask(system: Running, path: str) -> httpx.Response:
    return httpx.get(f"{system.url}{path}", timeout=30)


def told_of(system: Running, answer: httpx.Response) -> tuple[dict[str, Any], str]:
    """As a document and as text."""
    request = answer.headers["x-request-id"]
    return explained(system, request), system.ok("explain", request)


def call_of(document: dict[str, Any]) -> str:
    """Why the call came to nothing; of the first of a process none is told."""
    found = (span for span in document["spans"] if span["kind"] == "call")
    return str(next(found, {}).get("failure", ""))


def test_a_worker_at_its_cap(system: Running) -> None:
    address = str(system.folders.replicas / "full.1.sock")
    head = b"GET /held HTTP/1.1\r\nhost: x\r\nx-headway-from: http 10.0.0.7 51234 - 0 4000000000000\r\n\r\n"
    held = []
    with contextlib.ExitStack() as stack:

        def full() -> httpx.Response | None:
            """By what comes past the edge, as from another edge: this one still thinks that there is room."""
            held.append(stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX))))
            held[-1].connect(address)
            held[-1].sendall(head)
            answer = ask(system, "/full/x")
            return answer if answer.status_code == 503 else None

        answer = wait_for(full, 30, "a refusal")
        document, text = told_of(system, answer)
        assert document["failure"] == "refused by full.1: it holds as many requests or streams as it may"
        assert f"it came to nothing: {document['failure']}" in text
        called, text = told_of(system, ask(system, "/full"))
        assert called["failure"].startswith("refused by full.1")


def test_a_budget_that_is_used_up(system: Running) -> None:
    def final() -> tuple[dict[str, Any], str] | None:
        # Some in a row, and told of afterwards: the budget grows while nobody asks.
        answers = [ask(system, "/sick") for _ in range(12)]
        return next((found for each in answers if "budget" in call_of((found := told_of(system, each))[0])), None)

    document, text = wait_for(final, 120, "a call that is not tried again")
    assert call_of(document) == "sick answered 503; it was not tried again, for the budget of retries is used up"
    assert document["failure"].startswith("web.1 answered 503: what it needs was tried as often as may be")
    assert "✗ sick answered 503; it was not tried again" in text


def test_a_circuit_that_is_open(system: Running) -> None:
    system.ok("scale", "gone", "0")

    def opened() -> tuple[dict[str, Any], str] | None:
        document, text = told_of(system, ask(system, "/gone"))
        return (document, text) if "CircuitOpen" in call_of(document) else None

    document, text = wait_for(opened, 60, "the circuit opens")
    assert call_of(document).startswith("CircuitOpen: service gone: it failed too often just now and is not asked for ")
    assert [span["kind"] for span in document["spans"]] == ["edge", "service", "call"]  # nothing was sent
    assert "call gone GET /: CircuitOpen" in document["failure"]
    assert "✗ CircuitOpen: service gone" in text
