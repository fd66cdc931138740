"""A call is one line: what goes out with it, and what its answer is."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading

import pytest
from call_place import Start, answer, says

from headway.calls.client.service import Service, service
from headway.errors import NotRunning, StatusError

JSON = "content-type: application/json"


def test_an_answer_has_the_parts_that_httpx_gives_it(start: Start) -> None:
    leaf, inventory = start(says(answer(200, '{"left": "fünf"}'.encode(), JSON, "x-one: 1")))

    async def use() -> None:
        found = await inventory.get("/stock/7", params={"all": True})
        assert (found.status_code, found.is_success, found.reason_phrase) == (200, True, "OK")
        assert found.json() == {"left": "fünf"}
        assert found.text == '{"left": "fünf"}'
        assert found.headers["X-One"] == "1"
        assert found.raise_for_status() is found
        assert found.content == '{"left": "fünf"}'.encode()

    asyncio.run(use())
    call = leaf.calls[0]
    assert (call.method, call.target) == ("GET", "/stock/7?all=true")
    assert call.headers["host"] == "inventory"
    assert call.headers["x-headway-caller"] == "web"
    assert call.headers["x-headway-attempt"] == "1"
    assert 10_000 < int(call.headers["x-envoy-expected-rq-timeout-ms"]) <= 20_000


def test_bodies_and_headers_go_out_as_they_were_given(start: Start) -> None:
    leaf, inventory = start(says(answer(201)))

    async def use() -> None:
        await inventory.post("/a", json={"a": [1, None]}, headers={"X-Mine": "1", "TraceParent": "t"})
        await inventory.put("/b", data={"a": "b c"})
        await inventory.patch("/c", content=b"\x00\x01", idempotency_key="k7")
        await inventory.delete("/d?x=ü", headers=[("a", "b")])
        await inventory.request("options", "/e")

    asyncio.run(use())
    assert [(call.method, call.target) for call in leaf.calls] == [
        ("POST", "/a"),
        ("PUT", "/b"),
        ("PATCH", "/c"),
        ("DELETE", "/d?x=%C3%BC"),
        ("OPTIONS", "/e"),
    ]
    assert json.loads(leaf.calls[0].body) == {"a": [1, None]}
    assert leaf.calls[0].headers["content-type"] == "application/json"
    assert (leaf.calls[0].headers["x-mine"], leaf.calls[0].headers["traceparent"]) == ("1", "t")
    assert (leaf.calls[1].body, leaf.calls[2].body) == (b"a=b+c", b"\x00\x01")
    assert "content-type" not in leaf.calls[2].headers
    assert leaf.calls[2].headers["idempotency-key"] == "k7"


def test_any_status_of_an_app_is_an_answer(start: Start) -> None:
    _, inventory = start(says(answer(404, b"no such thing"), answer(500, b"oh")))

    async def use() -> None:
        missing = await inventory.get("/a", fallback="never")
        assert (missing.status_code, missing.is_error, missing.text) == (404, True, "no such thing")
        with pytest.raises(StatusError, match="inventory: answered 404 Not Found") as told:
            missing.raise_for_status()
        assert told.value.answer is missing
        assert (await inventory.get("/a")).status_code == 500

    asyncio.run(use())


def test_threads_have_the_same(start: Start) -> None:
    leaf, inventory = start(says(answer(200, b"[1]", JSON)))
    found = [inventory.sync.post("/a", json=1).json(), inventory.sync.get("/b").json()]
    assert (found, leaf.calls[0].body) == ([[1], [1]], b"1")
    threads = [threading.Thread(target=lambda: found.append(inventory.sync.get("/c").json())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[1]] * 22


def test_a_client_is_used_in_one_loop_after_the_other(start: Start) -> None:
    leaf, inventory = start(says(answer(200, b"ok")))

    async def use() -> str:
        return (await inventory.get("/")).text

    assert [asyncio.run(use()) for _ in range(3)] == ["ok"] * 3
    for closes in (True, False):  # a loop may be closed without a word
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(use()) == "ok"
        if closes:
            loop.close()
    assert asyncio.run(use()) == "ok"
    assert len(leaf.calls) == 6


def test_nothing_is_said_at_the_end_of_a_process(start: Start) -> None:
    _, _ = start(says(answer(200, b"ok")))
    code = (
        "import asyncio; from headway import service; inventory = service('inventory')\n"
        "loop = asyncio.new_event_loop(); print(loop.run_until_complete(inventory.get('/')).text)\n"
        "print(asyncio.run(inventory.get('/')).text, inventory.sync.get('/').text)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("ok\nok ok\n", "")


def test_a_fork_begins_anew(start: Start) -> None:
    leaf, _ = start(says(answer(200, b"ok")))
    code = (
        "import os; from headway import service; inventory = service('inventory')\n"
        "assert inventory.sync.get('/parent').text == 'ok'\n"
        "child = os.fork()\n"
        "assert inventory.sync.get('/child' if not child else '/parent').text == 'ok'\n"
        "assert inventory._caller.target.calls == (1 if not child else 2)\n"
        "if not child: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0; print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert sorted(call.target for call in leaf.calls) == ["/child", "/parent", "/parent"]


def test_what_is_not_declared_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    start(says(answer()))
    with pytest.raises(NotRunning, match=r"service pricing is not among those .* \(inventory\)") as told:
        asyncio.run(Service("pricing").get("/"))
    assert 'uses = ["pricing"]' in told.value.hint
    monkeypatch.setenv("HEADWAY_SERVICES", "{")
    with pytest.raises(NotRunning, match="cannot be read"):
        asyncio.run(Service("inventory").get("/"))
    monkeypatch.delenv("HEADWAY_SERVICES")
    with pytest.raises(NotRunning, match="it calls none"):
        Service("inventory").sync.get("/")
    monkeypatch.delenv("HEADWAY_SERVICE")
    with pytest.raises(NotRunning, match="was not started by Headway") as told:
        Service("inventory").sync.get("/", fallback=1)
    assert "headway up" in told.value.hint
    assert service("inventory") is service("inventory")


def test_naming_a_service_costs_an_app_nothing() -> None:
    code = "import sys, headway; print([m for m in sys.modules if m.startswith(('headway.', 'aiohttp', 'pydantic'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"
    code = (
        "import sys; from headway import service\n"
        "heavy = ('pydantic', 'ray', 'headway.control', 'headway.declaration')\n"
        "print([m for m in sys.modules if m.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert os.environ.get("HEADWAY_SERVICES") is None
