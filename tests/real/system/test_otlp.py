"""Spans sent to a collector: a small real one, which decodes what it is told, fails now and then, and goes away."""

from __future__ import annotations

import gzip
import json
import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness import Running, free_port, wait_for
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

APP = """
from headway import database

main = database("main")


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    async with main.at() as connection:
        await connection.fetchval("SELECT 1")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
"""
DECLARATION = """
[system]
name = "shop"
%s

[edge]
bind = ["127.0.0.1:$PORT"]

[services.web]
app = "shop:app"
replicas = 1
uses = ["main"]

[databases.main]
"""


class Collector:
    """What was sent, by trace; `status` is what it answers."""

    def __init__(self, port: int) -> None:
        self.status = 200
        self.refused = 0
        self.headers: list[str | None] = []
        self.spans: list[dict[str, Any]] = []
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(self.path, self.headers, body)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path: str, headers: Any, body: bytes) -> None:
        assert path == "/v1/traces"
        if self.status != 200:
            self.refused += 1
            return
        told = ExportTraceServiceRequest()
        told.ParseFromString(gzip.decompress(body) if headers["content-encoding"] == "gzip" else body)
        self.headers.append(headers["x-key"])
        for of_resource in told.resource_spans:
            resource = {one.key: one.value.string_value for one in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    attributes = {one.key: one.value.string_value for one in span.attributes}
                    self.spans.append(
                        {
                            "trace": span.trace_id.hex(),
                            "id": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "name": span.name,
                            "kind": attributes["headway.kind"],
                            "request": attributes["headway.request_id"],
                            "service": resource["service.name"],
                            "begin_ns": span.start_time_unix_nano,
                            "end_ns": span.end_time_unix_nano,
                        }
                    )

    def of(self, request: str) -> dict[str, dict[str, Any]]:
        """The spans of a request by kind."""
        return {span["kind"]: span for span in self.spans if span["request"] == request}


@contextmanager
def collector(port: int) -> Iterator[Collector]:
    found = Collector(port)
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()


def ask(system: Running) -> str:
    with urllib.request.urlopen(system.url, timeout=30) as answer:
        found: str = answer.headers["x-request-id"]
        return found


WHOLE = {"edge", "service", "database"}


def test_spans_reach_a_collector_that_fails_and_goes_away(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    port = free_port()
    declaration = DECLARATION % f'otlp = "http://127.0.0.1:{port}"'
    system = Running(tmp_path, declaration, env={"OTEL_EXPORTER_OTLP_HEADERS": "x-key=7"})
    with collector(port) as first, system:
        request = ask(system)
        wait_for(lambda: first.of(request).keys() >= WHOLE, 30, "the spans of a request")
        edge, service, database = (first.of(request)[kind] for kind in ("edge", "service", "database"))
        assert {one["trace"] for one in (edge, service, database)} == {request}
        assert (edge["parent"], service["parent"], database["parent"]) == ("", edge["id"], service["id"])
        assert (edge["name"], service["name"], database["name"]) == ("GET", "web", "database main")
        assert (edge["service"], service["service"], database["service"]) == ("edge", "web", "web")
        assert service["begin_ns"] <= database["begin_ns"] <= database["end_ns"] <= service["end_ns"]
        assert set(first.headers) == {"7"}
        assert any(entry["about"] == "otlp" and entry["what"] == "start" for entry in system.journal())

        first.status = 503
        late = ask(system)
        wait_for(lambda: first.refused, 30, "a batch is refused")
        assert ask(system)  # nobody waits for a collector
        first.status = 200
        wait_for(lambda: first.of(late).keys() >= WHOLE, 60, "the refused spans come again")

        # Whoever sends them dies, or the controller does: another goes on where they were.
        os.kill(wait_for(lambda: exporter(system), 30, "it is there"), 9)
        between = ask(system)
        wait_for(lambda: first.of(between).keys() >= WHOLE, 60, "another one goes on")
        system.kill_controller()
        after = ask(system)
        wait_for(lambda: first.of(after).keys() >= WHOLE, 60, "after the controller's death")

        declared = system.folder / "headway.toml"
        with collector(free_port()) as second:
            former = declared.read_text()
            declared.write_text(former.replace(str(port), str(second.server.server_port)))
            system.up()
            # The process that sent to the first may still send what comes right after.
            elsewhere: list[str] = []

            def arrives() -> bool:
                elsewhere.append(ask(system))
                return any(second.of(request).keys() >= WHOLE for request in elsewhere)

            wait_for(arrives, 60, "another collector is declared", every_s=0.3)
            declared.write_text(former)
            system.up()

        last = ask(system)
        wait_for(lambda: first.of(last), 30, "the first one is declared again")
        last = ask(system)
        system.stop()
        assert first.of(last).keys() >= WHOLE, "what is left is sent at the end"
        assert len({span["id"] for span in first.spans}) >= 3 * 6
    wait_for(lambda: not exporter(system), 30, "it has ended")


CALLS = """
from headway import service

stock = service("stock")


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await stock.get("/")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
"""
CHAIN = """
[services.calls]
app = "calls:app"
routes = ["/calls"]
replicas = 1
uses = ["stock"]

[services.stock]
app = "shop:app"
replicas = 1
uses = ["main"]
"""


def test_each_service_is_within_the_hop_to_it_and_the_whole_within_what_came(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "calls.py").write_text(CALLS)
    port, trace, outside = free_port(), "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with collector(port) as found, Running(tmp_path, DECLARATION % f'otlp = "http://127.0.0.1:{port}"' + CHAIN) as shop:
        headers = {"traceparent": f"00-{trace}-{outside}-01"}
        with urllib.request.urlopen(urllib.request.Request(f"{shop.url}/calls", headers=headers), timeout=30):
            pass  # the first of a process has no span of a call
        with urllib.request.urlopen(urllib.request.Request(f"{shop.url}/calls", headers=headers), timeout=30) as answer:
            request = answer.headers["x-request-id"]

        def whole() -> list[dict[str, Any]]:
            spans = [span for span in found.spans if span["request"] == request]
            return spans if len(spans) >= 6 else []

        spans = wait_for(whole, 30, "the spans of a request")
        assert {span["trace"] for span in spans} == {trace}
        parent, way = outside, []
        while within := [span for span in spans if span["parent"] == parent]:
            (span,) = within
            way.append((span["kind"], span["service"]))
            parent = span["id"]
        assert way == [
            ("edge", "edge"),
            ("service", "calls"),
            ("call", "calls"),
            ("edge", "edge"),
            ("service", "stock"),
            ("database", "stock"),
        ]
        document = json.loads(shop.ok("explain", request, "--json"))
        assert [span["depth"] for span in document["spans"]] == list(range(6))


def exporter(system: Running) -> int:
    """The process that sends, 0 when there is none."""
    wanted = f"headway.control.otlp\0{system.state}\0".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if wanted in Path(f"/proc/{entry}/cmdline").read_bytes():
                    return int(entry)
            except OSError:
                continue
    return 0


def test_without_the_library_a_declared_collector_is_refused_and_one_of_the_environment_told(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    missing = tmp_path / "missing" / "opentelemetry"
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text("")
    path = f"{missing.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    system = Running(tmp_path, DECLARATION % 'otlp = "http://127.0.0.1:4318"', env={"PYTHONPATH": path})
    system.port = free_port()
    (tmp_path / "headway.toml").write_text(system.declaration.replace("$PORT", str(system.port)))
    refused = system.run("up", "--detach")
    assert refused.returncode == 1
    assert "error: system.otlp: OpenTelemetry's exporter is not installed beside Headway" in refused.stderr
    assert '-m pip install "headway[otlp]"' in refused.stderr
    assert not system.processes()

    named = {"PYTHONPATH": path, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    with Running(tmp_path, DECLARATION % "", env=named) as other:
        assert ask(other)
        told = wait_for(lambda: [e for e in other.journal() if e["about"] == "otlp"], 30, "it is told")
        assert len(told) == 1
        assert 'pip install "headway[otlp]"' in told[0]["reason"]


def test_an_address_with_a_secret_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    system = Running(tmp_path, DECLARATION % 'otlp = "http://user:secret@collector:4318"')
    (tmp_path / "headway.toml").write_text(system.declaration.replace("$PORT", "8000"))
    refused = system.run("check")
    assert refused.returncode == 1
    assert "system.otlp: is no address of a collector" in refused.stderr
    assert "secret@" not in refused.stderr
