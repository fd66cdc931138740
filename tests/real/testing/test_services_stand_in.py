"""Stand-ins for services, as an app's tests have them: pytest in a process of its own, and the real client."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_plugin import run

DECLARATION = """
[system]
name = "shop"
[services.web]
app = "shop:app"
routes = ["/"]
uses = ["stock", "two_words"]
env = { STOCK_URL = "{stock.url}" }
[services.stock]
app = "stock:app"
deadline = "60s"
[services.two_words]
app = "stock:app"
"""
PASS = """
import asyncio, json, os, threading, time, urllib.request
import pytest
from headway import service
from headway.errors import BadAnswer, CircuitOpen, DeadlineExceeded, NotRunning, Refused, StatusError, Unavailable
from headway.errors import SocketClosed

stock = service("stock")

def ask(*arguments, **options):
    return [asyncio.run(stock.request(*arguments, **options)), stock.sync.request(*arguments, **options)]

def test_answers_and_calls(services):
    on = services["stock"].on("POST", "/orders/{number}").respond(201, json={"is": "made"}, headers={"X-A": "b"})
    for answer in ask("POST", "/orders/a%20b?x=1&y=", json={"n": 7}, headers={"X-Who": "me"}):
        assert (answer.status_code, answer.json(), answer.headers["x-a"]) == (201, {"is": "made"}, "b")
        assert answer.headers["content-type"] == "application/json"
    assert services["stock"].calls == on.calls
    for call in on.calls:
        assert (call.method, call.path, call.places) == ("POST", "/orders/a b", {"number": "a b"})
        assert (call.params, call.json(), call.headers["x-who"]) == ({"x": "1", "y": ""}, {"n": 7}, "me")
        assert 0 < int(call.headers["x-envoy-expected-rq-timeout-ms"]) <= 60_000

def test_nothing_is_left_of_another_test(services):
    assert services["stock"].calls == []
    services["stock"].on("GET", "/").respond(404, text="nöthing").respond(content=b"raw")
    first, second = ask("GET", "/")
    assert (first.status_code, first.text, second.content) == (404, "nöthing", b"raw")

@pytest.mark.parametrize("error", [Refused, DeadlineExceeded, Unavailable, BadAnswer])
def test_failures_are_those_that_an_app_meets(services, error):
    services["stock"].on("GET", "/").fail(error)
    with pytest.raises(error):
        asyncio.run(stock.get("/"))
    with pytest.raises(error):
        stock.sync.get("/")
    came = len(services["stock"].calls)
    assert 3 <= came <= 6 if error is Unavailable else came == 2  # tried again, as far as the budget allows

def test_a_circuit_is_open(services):
    services["stock"].open_circuit()
    for _ in range(2):
        with pytest.raises(CircuitOpen):
            stock.sync.get("/")
    assert services["stock"].calls == []

def test_it_is_closed_again(services):
    services["stock"].on("GET", "/").respond()
    assert stock.sync.get("/").is_success

def test_a_slow_answer_is_given_up(services):
    services["stock"].on("GET", "/").respond(delay=20)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        stock.sync.get("/", deadline=0.1)
    assert time.monotonic() - began < 15

def test_a_client_that_knows_the_url_alone(services):
    services["stock"].on("GET", "/left").respond(text="7")
    with urllib.request.urlopen(os.environ["STOCK_URL"] + "/left") as answer:
        assert answer.read() == b"7"

async def asgi(scope, receive, send):
    body = (await receive())["body"]
    told = [scope["path"], scope["query_string"].decode(), scope["method"], body.decode()]
    await send({"type": "http.response.start", "status": 203, "headers": [(b"x-a", b"1"), (b"X-A", b"2")]})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()[:5], "more_body": True})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()[5:]})

def wsgi(environ, start_response):
    body = environ["wsgi.input"].read().decode()
    told = [environ["PATH_INFO"], environ["QUERY_STRING"], environ["REQUEST_METHOD"], body]
    start_response("203 Yes", [("x-a", "1"), ("x-a", "2")])
    return [json.dumps(told).encode()]

class Framework:
    async def __call__(self, scope, receive, send):
        await asgi(scope, receive, send)

@pytest.mark.parametrize("app", [asgi, wsgi, Framework()])
def test_an_app_stands_for_it(services, app):
    services["stock"].app = app
    for answer in ask("PUT", "/a%20b?x=1", content=b"body"):
        assert (answer.status_code, answer.json()) == (203, ["/a b", "x=1", "PUT", "body"])
    services["stock"].on("GET", "/").respond(204)
    assert stock.sync.get("/").status_code == 204

def test_several_services_and_streams(services):
    services["two_words"].on("GET", "/").respond(content=b"x" * 200_000)
    async def read():
        async with service("two_words").stream("GET", "/") as answer:
            return len(await answer.aread())
    assert asyncio.run(read()) == 200_000

async def live(scope, receive, send):
    if scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        if scope["path"] == "/closed":
            await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][-1]})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "end":
                await send({"type": "websocket.close", "code": 4000, "reason": "enough"})
                return
            await send({"type": "websocket.send", **{k: v * 2 for k, v in message.items() if k in ("text", "bytes")}})
        return
    status = int(scope["query_string"] or 200)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(3):
        await send({"type": "http.response.body", "body": b"data: %d\\n" % number, "more_body": True})
        if scope["path"] == "/breaks" and number == 1:
            raise RuntimeError("of the app")
        gate = gates.get(number)
        if gate is not None:
            await asyncio.to_thread(gate.wait, 60)
    await send({"type": "http.response.body"})

gates = {}

def test_an_app_streams(services):
    services["stock"].app = live
    gates[0] = threading.Event()
    with stock.sync.stream("GET", "/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"  # before the rest is made
        gates.pop(0).set()
        assert list(lines) == ["data: 1", "data: 2"]
        assert answer.headers["content-type"] == "text/event-stream"
    assert [stock.sync.request("HEAD", "/events").content, stock.sync.get("/events?204").content] == [b"", b""]
    with pytest.raises(Unavailable):
        stock.sync.post("/breaks")

def test_an_app_talks(services):
    services["stock"].app = live

    async def talk():
        async with stock.websocket("/live", subprotocols=["a", "b"]) as socket:
            assert socket.subprotocol == "b"
            await socket.send("x")
            await socket.send(b"y")
            assert [await socket.receive(), await socket.receive()] == ["xx", b"yy"]
            await socket.send("end")
            with pytest.raises(SocketClosed) as closed:
                await socket.receive()
            assert (closed.value.code, closed.value.reason) == (4000, "enough")
        with pytest.raises(StatusError) as refused:
            async with stock.websocket("/closed"):
                pass
        assert refused.value.answer.status_code == 403

    asyncio.run(talk())

def test_what_is_no_answer_is_said_at_once(services):
    for wrong in ("left", "/left?x=1"):
        with pytest.raises(ValueError):
            services["stock"].on("GET", wrong)
    with pytest.raises(ValueError, match="open_circuit"):
        services["stock"].on("GET", "/").fail(CircuitOpen)
    with pytest.raises(ValueError, match="Refused"):
        services["stock"].on("GET", "/").fail(KeyError)
    with pytest.raises(NotRunning):
        service("other").sync.get("/")
"""
FAIL = """
from headway import service

def test_it_is_asked_without_an_answer():
    answer = service("stock").sync.get("/left/kettle")
    assert answer.status_code == 501
    assert 'services["stock"].on("GET", "/left/kettle")' in answer.text

def test_the_next_one_is_not_to_blame():
    pass
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "headway.toml").write_text(DECLARATION)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["headway.testing"]\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def test_services_answer_what_a_test_says(app):
    (app / "test_app.py").write_text(PASS)
    done = run(app)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "17 passed" in done.stdout
    assert "Task" not in done.stderr


def test_a_call_without_an_answer_fails_its_test_alone(app):
    (app / "test_app.py").write_text(FAIL)
    done = run(app)
    assert "service stock was called by GET /left/kettle, and the test gives no answer" in done.stdout
    assert "2 passed, 1 error" in done.stdout


def test_a_folder_too_deep_for_a_socket_does_as_well(app, monkeypatch):
    deep = app / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(deep))
    (app / "test_app.py").write_text(PASS)
    done = run(app, "-k", "answers or several")
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert list(deep.iterdir()) == []
