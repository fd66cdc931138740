"""A call from one service to another, over a plain client: where it goes, what is believed of it, how it is bounded."""

from __future__ import annotations

import json
import re
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from called import APP, call, caller, logged, socket_of
from harness import Running, wait_for
from websockets.sync.client import unix_connect

DEADLINE = "x-envoy-expected-rq-timeout-ms"
ANSWERED = "x-headway-answered"
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "told:app"
routes = ["/web"]
replicas = 1
uses = ["stock", "one"]
env = { STOCK = "{stock.url}" }
[services.stock]
app = "told:app"
replicas = 2
deadline = "20s"
uses = ["web"]
[services.stock.at."/reports"]
deadline = "40s"
[services.one]
app = "told:app"
replicas = 1
limit = 1
[services.threads]
app = "threads:app"
replicas = 1
[services.caller]
command = ["sleep", "1000"]
uses = ["threads"]
"""
THREADS = """
def app(environ, start_response):
    start_response("200 OK", [])
    seen = (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ.get("HTTP_X_HEADWAY_FROM", "none"))
    return [" ".join(seen).encode()]
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("called")
    (folder / "told.py").write_text(APP)
    (folder / "threads.py").write_text(THREADS)
    with Running(folder, DECLARATION) as running:
        yield running


def test_who_calls_is_told_where(system: Running) -> None:
    seen = httpx.get(system.url + "/web", timeout=30).json()
    assert seen["services"] == {
        "stock": {"socket": socket_of(system, "stock"), "deadline_s": 20.0},
        "one": {"socket": socket_of(system, "one"), "deadline_s": 30.0},
    }
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", seen["env"]["STOCK"])
    assert call(system, "one").json()["services"] == {}
    told = system.ok("run", "caller", "--", "sh", "-c", "echo $HEADWAY_SERVICES")
    assert json.loads(told) == {"threads": {"socket": socket_of(system, "threads"), "deadline_s": 30.0}}


def test_a_call_is_balanced(system: Running) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: call(system, "stock", "/work"), range(40)))
    replicas = [answer.json()["replica"] for answer in answers]
    assert set(replicas) == {"stock.1", "stock.2"}
    assert 4 <= replicas.count("stock.1") <= 36  # one that stands still meanwhile has half of what is under way


def test_the_same_by_url(system: Running) -> None:
    url = httpx.get(system.url + "/web", timeout=30).json()["env"]["STOCK"]
    assert httpx.get(url + "/any", timeout=30).json()["replica"].startswith("stock.")


def test_status_tells_of_calls(system: Running) -> None:
    def limits(document: dict[str, Any]) -> dict[str, Any] | None:
        """The services, once it is known how much their replicas take."""
        found: dict[str, Any] = document["services"]
        classes = (found["stock"]["overload"] or {"classes": {}})["classes"]
        return found if classes.get("stock", {}).get("limit") and found["one"]["replicas"][0]["limit"] else None

    services = wait_for(lambda: limits(system.status()), 30, "limits are told")
    assert {name: told["calls_from"] for name, told in services.items()} == {
        "web": ["stock"],
        "stock": ["web"],
        "one": ["web"],
        "threads": ["caller"],
        "caller": [],
    }
    assert services["stock"]["routes"] == []
    assert services["stock"]["overload"]["classes"]["stock"]["limit"] > 0
    assert services["one"]["replicas"][0]["limit"] == 1
    assert "called by web" in system.ok("status")


def test_a_private_service_is_reached_from_nowhere_else(system: Running) -> None:
    mode = stat.S_IMODE(Path(socket_of(system, "stock")).stat().st_mode)
    assert mode == 0o600
    assert stat.S_IMODE(system.folders.calls.stat().st_mode) == 0o700
    for path in ("/", "/stock", "/web/../stock"):
        assert httpx.get(system.url + path, headers={"host": "stock"}, timeout=30).status_code in (404, 400)
    assert not Path(socket_of(system, "caller")).exists()


def test_headways_own_paths_are_closed_to_callers_too(system: Running) -> None:
    assert call(system, "stock", "/-headway/alive").status_code == 404
    assert call(system, "stock", "/%2dheadway/alive").status_code == 404


# -- what is believed


def test_what_a_call_says_of_itself_arrives(system: Running) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    answer = call(
        system,
        "stock",
        x_request_id="from-outside-1",
        traceparent=trace,
        baggage="user=7",
        x_headway_caller="web",
        x_headway_attempt="2",
        x_headway_criticality="3",
        x_headway_from="https 6.6.6.6 66 - 0 1",
    )
    seen = answer.json()
    assert answer.headers["x-request-id"] == "from-outside-1"
    assert (seen["client"][0], seen["scheme"]) == ("127.0.0.1", "http")
    assert [name for name in seen["headers"] if name.startswith("x-headway-")] == ["x-headway-criticality"]
    kept = {name: seen["headers"][name] for name in ("x-request-id", "traceparent", "baggage", "x-headway-criticality")}
    assert kept == {
        "x-request-id": "from-outside-1",
        "traceparent": trace,
        "baggage": "user=7",
        "x-headway-criticality": "3",
    }
    lines = wait_for(lambda: logged(system, "from-outside-1"), 30, "the call is logged")
    told = {name: lines[0][name] for name in ("service", "caller", "attempt", "trace", "client")}
    assert told == {"service": "stock", "caller": "web", "attempt": 2, "trace": trace, "client": "unix"}


def test_garbage_counts_as_not_said(system: Running) -> None:
    answer = call(
        system,
        "stock",
        x_request_id='a"b',
        traceparent="00-zz",
        x_headway_caller='we"b',
        x_headway_attempt="99",
        x_headway_criticality="-1",
    )
    seen = answer.json()["headers"]
    assert re.fullmatch("[0-9a-f]{32}", seen["x-request-id"])
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", seen["traceparent"])
    assert seen["x-headway-criticality"] == "1"  # as declared
    line = wait_for(lambda: logged(system, seen["x-request-id"]), 30, "the call is logged")[0]
    assert (line["caller"], line["attempt"]) == ("?", 1)


def test_inbound_internal_headers_never_count_from_outside(system: Running) -> None:
    hostile = {
        "x-headway-criticality": "0",
        "x-headway-attempt": "1",
        "x-headway-caller": "stock",
        "x-headway-from": "https 6.6.6.6 66 - 0 1",
        "x-headway-answered": "refused",
        DEADLINE: "0",
    }
    answer = httpx.get(system.url + "/web", headers=hostile, timeout=30)
    seen = answer.json()["headers"]
    assert answer.status_code == 200
    assert {name: value for name, value in seen.items() if name.startswith("x-headway-") or name == DEADLINE} == {
        "x-headway-criticality": "1"
    }
    line = wait_for(lambda: logged(system, answer.headers["x-request-id"]), 30, "the request is logged")[0]
    assert (line["caller"], line["attempt"]) == ("", 1)


def test_nothing_internal_goes_outside(system: Running) -> None:
    answer = httpx.get(system.url + "/web/forged", timeout=30)
    assert answer.status_code == 200
    assert httpx.get(system.url + "/forged", timeout=30).status_code == 404
    assert not [name for name in answer.headers if name.startswith("x-headway-")]


def test_a_client_can_only_make_itself_less_critical(system: Running) -> None:
    def level(**headers: str) -> str:
        seen = httpx.get(system.url + "/web", headers=headers, timeout=30).json()
        return str(seen["headers"]["x-headway-criticality"])

    assert [level(priority=value) for value in ("u=0", "u=3", "u=5", "u=7")] == ["1", "1", "2", "3"]
    asked = call(system, "stock", x_headway_criticality="0", priority="u=5").json()["headers"]
    assert asked["x-headway-criticality"] == "2"
    assert call(system, "stock", x_headway_criticality="0").json()["headers"]["x-headway-criticality"] == "0"


# -- for how long


@pytest.mark.parametrize("left", ["0", "000", "-1", "-99999999999999999999999"])
def test_a_spent_deadline_is_refused_before_anything_is_sent(system: Running, left: str) -> None:
    answer = call(system, "stock", f"/ran?spent{left}", **{DEADLINE: left})
    assert (answer.status_code, answer.headers[ANSWERED]) == (504, "deadline")
    assert f"spent{left}" not in _ran(system)


@pytest.mark.parametrize("left", ["99999999", "100000000000000000000", "1e3", "12s", "\xb2", "5 5", ""])
def test_a_huge_or_unreadable_one_is_the_services_own(system: Running, left: str) -> None:
    answer = call(system, "stock", **{DEADLINE: left.encode("latin-1")})  # type: ignore[arg-type]
    assert answer.status_code == 200


def test_a_call_ends_with_its_callers_patience(system: Running) -> None:
    began_s = time.monotonic()
    answer = call(system, "stock", "/gate?never", **{DEADLINE: "400"})
    waited_s = time.monotonic() - began_s
    assert (answer.status_code, answer.headers[ANSWERED]) == (504, "deadline")
    assert 0.39 < waited_s < 15.0  # stock itself would wait for 20 s
    (system.folder / "never").touch()


def test_an_event_stream_may_be_silent_for_longer(system: Running) -> None:
    with caller(system, "stock") as client:
        answer = client.get("/events", headers={"accept": "text/event-stream", DEADLINE: "200"})
    assert answer.text.count("data:") == 3


def test_a_websocket_goes_through(system: Running) -> None:
    with unix_connect(socket_of(system, "stock"), "ws://stock/ws", open_timeout=30) as websocket:
        websocket.send("hello")
        assert websocket.recv(timeout=30) == "hello"


# -- the queue


def _ran(system: Running) -> list[str]:
    try:
        return (system.folder / "ran").read_text().split()
    except FileNotFoundError:
        return []


def _queued(system: Running) -> int:
    document = system.quick_status()
    assert document is not None
    return int(document["services"]["one"]["overload"]["classes"]["one"]["queued"])


def test_the_more_critical_go_first(system: Running) -> None:
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(call, system, "one", "/gate?open")
        wait_for(lambda: "open" in _ran(system), 30, "the first one is at work")
        waiting = []
        for number, level in enumerate(("3", "0", "2"), start=1):
            waiting.append(pool.submit(call, system, "one", f"/ran?level{level}", x_headway_criticality=level))
            wait_for(lambda number=number: _queued(system) == number, 30, "it waits")  # type: ignore[misc]
        (system.folder / "open").touch()
        assert all(one.result().status_code == 200 for one in (first, *waiting))
    assert [name for name in _ran(system) if name.startswith("level")] == ["level0", "level2", "level3"]


def test_what_waits_is_dropped_when_its_caller_has_gone(system: Running) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, system, "one", "/gate?gone")
        wait_for(lambda: "gone" in _ran(system), 30, "the first one is at work")
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(socket_of(system, "one"))
        connection.sendall(b"GET /ran?hungup HTTP/1.1\r\nHost: one\r\n\r\n")
        wait_for(lambda: _queued(system) == 1, 30, "it waits")
        connection.close()
        wait_for(lambda: _queued(system) == 0, 30, "it is gone")
        (system.folder / "gone").touch()
        assert first.result().status_code == 200
    assert call(system, "one").status_code == 200
    assert "hungup" not in _ran(system)


def test_what_waited_too_long_is_not_run(system: Running) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(call, system, "one", "/gate?late")
        wait_for(lambda: "late" in _ran(system), 30, "the first one is at work")
        second = pool.submit(call, system, "one", "/ran?tardy", **{DEADLINE: "200"})
        wait_for(lambda: _queued(system) == 1, 30, "it waits")
        time.sleep(0.5)
        (system.folder / "late").touch()
        assert first.result().status_code == 200
        answer = second.result()
    assert (answer.status_code, answer.headers[ANSWERED]) == (503, "deadline")
    assert "tardy" not in _ran(system)


def test_a_called_app_of_threads_sees_who_asks(system: Running) -> None:
    assert call(system, "threads").text == "127.0.0.1 http none"


def test_nobody_there_is_told_at_once(system: Running) -> None:
    system.ok("scale", "one", "0")
    began_s = time.monotonic()
    answer = call(system, "one")
    assert (answer.status_code, answer.headers[ANSWERED]) == (503, "unavailable")
    assert time.monotonic() - began_s < 15.0  # who waited for one would do so for 30 s
    system.ok("scale", "one", "1")
    wait_for(lambda: call(system, "one").status_code == 200, 30, "it is back")
