"""Services that call each other from Python: what travels down a chain, and what holds while a part of it is sick."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from called import APP as TOLD
from called import logged
from calling import APP, CHAIN, load
from harness import HEADWAY, Running, die_with_parent, wait_for

from headway.cli.show import status_lines

DEADLINE = "x-envoy-expected-rq-timeout-ms"


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "chain.py").write_text(APP)
    with Running(tmp_path, CHAIN) as running:
        yield running


def calls(system: Running, service: str = "inventory", target: str = "pricing") -> dict[str, Any]:
    """What is told of them, as of about a second ago; empty where nothing is."""
    document = system.quick_status()
    found: dict[str, Any] = document["services"][service]["calls"].get(target, {}) if document else {}
    return found


def test_what_belongs_to_a_request_travels_down_the_chain(chain: Running) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-headway-caller": "forged", DEADLINE: "1"}
    web = httpx.get(f"{chain.url}/chain", headers=headers, timeout=30).raise_for_status().json()
    inventory = web["next"]
    pricing = inventory["next"]
    assert [hop["service"] for hop in (web, inventory, pricing)] == ["web", "inventory", "pricing"]
    ids = {hop["headers"]["x-request-id"] for hop in (web, inventory, pricing)}
    assert len(ids) == 1
    parents = [hop["headers"]["traceparent"].split("-") for hop in (web, inventory, pricing)]
    assert {parent[1] for parent in parents} == {parents[0][1]}
    assert len({parent[2] for parent in parents}) == 3  # each call is a span of its own
    assert [hop["headers"].get("x-headway-criticality") for hop in (web, inventory, pricing)] == ["0"] * 3
    left = [int(hop["headers"][DEADLINE]) for hop in (inventory, pricing)]
    assert 0 < left[1] < left[0] <= 9750  # of ten seconds, less what is kept for an answer without it
    for service, target in (("web", "inventory"), ("inventory", "pricing")):
        wait_for(lambda of=(service, target): calls(chain, *of).get("attempts"), 30, "it is counted")  # type: ignore[misc]
        told = calls(chain, service, target)
        assert (told["calls"], told["attempts"]) == (1, 1)
    lines = wait_for(lambda: found if len(found := logged(chain, next(iter(ids)))) >= 3 else None, 30, "three hops")
    assert {line["caller"] for line in lines} >= {"web", "inventory"}


def test_a_replica_killed_at_each_level_costs_no_request(chain: Running) -> None:
    with load(f"{chain.url}/chain", 4) as made:
        for service in ("web", "inventory", "pricing"):
            before = made.count
            wait_for(lambda n=before: made.count > n + 20, 60, "the load goes on")  # type: ignore[misc]
            os.kill(chain.pid(f"{service}.1"), signal.SIGKILL)
            wait_for(
                lambda s=service: all(r["state"] == "ready" for r in chain.replicas(s)),  # type: ignore[misc]
                60,
                f"{service}.1 is back",
            )
        before = made.count
        wait_for(lambda: made.count > before + 20, 30, "the load goes on")
    assert set(made.found) == {200}, made.found


def test_a_leaf_that_fails_half_of_the_time_is_not_asked_much_more_often(chain: Running) -> None:
    (chain.folder / "half").touch()
    began_s = time.monotonic()
    with load(f"{chain.url}/chain", 4) as made:
        wait_for(lambda: made.count > 600, 180, "600 requests")
    took_s = time.monotonic() - began_s
    assert set(made.found) <= {200, 503}
    assert made.found[503] < 0.5 * made.count

    def all_told() -> bool:
        """Each process tells within a second, and is read a moment later: once all of them have, nothing changes."""
        return calls(chain, "web", "inventory").get("calls", 0) >= made.count and calls(chain).get("calls", 0) >= 600

    wait_for(all_told, 60, "all calls are counted")
    above, told = calls(chain, "web", "inventory"), calls(chain)
    wait_for(lambda: calls(chain).get("retries"), 30, "some were tried again")
    # A fifth more, or one a second and process where there are few: on a busy machine, and in the first few seconds.
    floor = max(10.0, took_s) * told["processes"]
    assert told["attempts"] <= 1.2 * told["calls"] + floor
    # Retries at two levels must not multiply: what was tried as often as may be is not tried again above.
    assert told["attempts"] <= 1.2 * above["calls"] + 2 * floor


def test_a_leaf_that_hangs_is_done_without_and_asked_again_when_it_is_back(chain: Running) -> None:
    url = f"{chain.url}/spared"
    assert httpx.get(url, timeout=30).json()["next"]["next"]["service"] == "pricing"
    (chain.folder / "hangs").touch()
    with load(url, 8) as made:
        wait_for(lambda: calls(chain).get("breaker", "closed") != "closed", 60, "the breaker of pricing opens")
        shown = chain.ok("status")
        assert "inventory does not ask pricing now" in shown
        (chain.folder / "hangs").unlink()
        wait_for(lambda: calls(chain).get("breaker") == "closed", 60, "the breaker closes again")
    assert set(made.found) == {200}, made.found  # within the deadline of web

    def asked() -> Any:
        """What pricing answered; None where inventory, or web, did without."""
        found = httpx.get(url, timeout=30).json()["next"]
        last = found["next"] if isinstance(found, dict) else None
        return last if isinstance(last, dict) else None

    assert wait_for(asked, 30, "it is asked")["service"] == "pricing"


def test_no_more_calls_are_under_way_than_are_declared(tmp_path: Path) -> None:
    (tmp_path / "chain.py").write_text(APP)
    (tmp_path / "hangs").touch()
    declared = CHAIN.replace('uses = ["inventory"]', 'uses = ["inventory"]\ncalls_max = 3')
    with Running(tmp_path, declared) as chain, load(f"{chain.url}/chain", 12) as made:

        def full() -> dict[str, Any] | None:
            """The status while all places are taken; later the breaker opens, and none is."""
            document = chain.quick_status()
            told = document["services"]["web"]["calls"].get("inventory", {}) if document else {}
            return document if told.get("refused") and told["in_flight"] >= told["bound"] else None

        document = wait_for(full, 60, "all places are taken, and more are refused", every_s=0.05)
        told = document["services"]["web"]["calls"]["inventory"]
        assert told["bound_max"] == 3 * told["processes"]
        assert told["in_flight"] <= told["bound_max"]
        assert f"{told['bound_max']} where it is quick" in "\n".join(status_lines(document))
        others = wait_for(lambda: calls(chain), 30, "the next ones of the chain have called")
        assert others["bound_max"] == 256 * others["processes"]
        wait_for(lambda: made.found[503], 30, "whoever found no place hears so")
        (tmp_path / "hangs").unlink()


WSGI = """
import os, time
from headway import service

leaf = service("inventory") if os.environ["HEADWAY_SERVICE"] == "web" else None


def app(environ, start_response):
    if leaf is not None and environ["PATH_INFO"] == "/leaf":
        found = leaf.sync.get("/", fallback=None)
        body = b"without" if found is None else found.content
    else:
        while leaf is None and os.path.exists("hangs"):
            time.sleep(0.05)
        body = b"plain"
    start_response("200 OK", [("content-type", "text/plain")])
    return [body]
"""
TRUNK = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "trunk:app"
routes = ["/"]
replicas = 1
threads = 8
deadline = "10s"
uses = ["inventory"]
[services.inventory]
app = "trunk:app"
replicas = 1
"""


def test_threads_that_wait_for_a_leaf_leave_others_to_what_needs_none(tmp_path: Path) -> None:
    (tmp_path / "trunk.py").write_text(WSGI)
    with Running(tmp_path, TRUNK) as system:
        assert httpx.get(f"{system.url}/leaf", timeout=30).text == "plain"
        (tmp_path / "hangs").touch()
        with load(f"{system.url}/leaf", 12) as needs:
            wait_for(lambda: calls(system, "web", "inventory").get("in_flight") == 4, 30, "half of the threads wait")
            with load(f"{system.url}/plain", 2) as plain:
                wait_for(lambda: plain.count > 100, 60, "what needs no leaf is answered")
            assert set(plain.found) == {200}
            assert plain.slowest_s < 7.0  # where all threads waited for the leaf, it would be their deadline
        assert needs.slowest_s < 30.0
        assert needs.found[200] > 0
        (tmp_path / "hangs").unlink()
        wait_for(lambda: httpx.get(f"{system.url}/leaf", timeout=30).text == "plain", 40, "the leaf is asked again")


ROUND = """
import os
from headway import service

other = service({"web": "echo", "echo": "web"}[os.environ["HEADWAY_SERVICE"]])


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    status = 200
    if scope["path"] == "/round":
        with open("rounds", "a") as file:
            file.write("x")
        status = (await other.get("/round")).status_code
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"plain"})
"""
CIRCLE = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "round:app"
routes = ["/"]
replicas = 1
deadline = "5s"
uses = ["echo"]
[services.echo]
app = "round:app"
replicas = 1
uses = ["web"]
"""


def test_a_request_that_goes_round_in_circles_ends(tmp_path: Path) -> None:
    (tmp_path / "round.py").write_text(ROUND)
    with Running(tmp_path, CIRCLE) as system:
        answer = httpx.get(f"{system.url}/round", timeout=30)
        assert answer.status_code in (503, 504)  # by the app, or by the edge where the machine is busy
        assert "x-headway-answered" not in answer.headers
        # What each hop keeps of its time for an answer of its own bounds how many there can be.
        assert 2 < len((tmp_path / "rounds").read_text()) < 150
        assert httpx.get(system.url, timeout=30).text == "plain"
        wait_for(lambda: calls(system, "echo", "web").get("in_flight") == 0, 30, "nothing is under way")


def test_a_service_that_goes_while_it_is_called_is_unavailable(chain: Running) -> None:
    alone = CHAIN.partition("[services.pricing]")[0].replace('uses = ["pricing"]', "")
    with load(f"{chain.url}/spared", 2) as made:
        wait_for(lambda: made.count > 20, 30, "the load goes on")
        (chain.folder / "headway.toml").write_text(alone.replace("$PORT", str(chain.port)))
        chain.ok("up", "--detach")
        before = made.count
        wait_for(lambda: made.count > before + 50, 60, "the load goes on")
    assert set(made.found) <= {200, 500}  # what asks for it by name is told that it is not declared any more


ASKING = """
import json
from headway import service

stock = service("stock")


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/events":
        async with stock.stream("GET", "/events", headers={"accept": "text/event-stream"}) as found:
            seen = [line async for line in found.aiter_lines() if line]
    else:
        async with stock.websocket("/") as socket:
            await socket.send("hello")
            seen = [await socket.receive_text()]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})
"""
STOCK = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "asking:app"
routes = ["/"]
replicas = 1
uses = ["stock"]
[services.stock]
app = "told:app"
replicas = 2
deadline = "1s"
"""


def test_streams_and_websockets_reach_a_replica_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "asking.py").write_text(ASKING)
    (tmp_path / "told.py").write_text(TOLD)
    with Running(tmp_path, STOCK) as system:
        # Longer as a whole than the deadline of the service, which a busy machine may take for its beginning alone.
        for path, seen in (("/events", ["data: 0", "data: 1", "data: 2"]), ("/socket", ["hello"])):

            def answer(path: str = path) -> Any:
                found = httpx.get(f"{system.url}{path}", timeout=30)
                return found.json() if found.status_code == 200 else None

            assert wait_for(answer, 60, f"{path} is answered") == seen


CALLER = """
import asyncio, collections, json, os
from headway import service

inventory, found = service("inventory"), collections.Counter()


async def call():
    while not os.path.exists("stop"):
        try:
            found[(await inventory.get("/plain")).status_code] += 1
        except Exception as error:
            found[f"{type(error).__name__}: {error}"] += 1
        open("calls", "w").write(str(found.total()))


async def main():
    await asyncio.gather(*(call() for _ in range(8)))

asyncio.run(main())
print(json.dumps(found))
"""


def test_the_death_of_the_edge_costs_no_call_that_may_be_repeated(chain: Running) -> None:
    argv = [*HEADWAY, "run", "web", "--", sys.executable, "-c", CALLER]
    caller = subprocess.Popen(argv, cwd=chain.folder, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
    done = chain.folder / "calls"

    def count() -> int:
        text = done.read_text() if done.exists() else ""
        return int(text or 0)

    try:
        for _ in range(2):
            before = count()
            wait_for(lambda n=before: count() > n + 50, 60, "calls are answered")  # type: ignore[misc]
            edge = chain.pid("edge")
            os.kill(edge, signal.SIGKILL)
            wait_for(lambda pid=edge: chain.processes().get("edge") not in (None, pid), 30, "it is back")  # type: ignore[misc]
        before = count()
        wait_for(lambda: count() > before + 50, 60, "calls are answered again")
        wait_for(lambda: calls(chain, "web", "inventory").get("retries"), 30, "some were repeated")
        (chain.folder / "stop").touch()
        out, _ = caller.communicate(timeout=90)
    finally:
        caller.kill()
    assert set(json.loads(out.splitlines()[-1])) == {"200"}, out
