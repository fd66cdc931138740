"""What a cache does for a system that is asked too much, or whose server of the cache stands still."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from harness import Running, wait_for

ASGI = """
import asyncio
from headway import cache
hot = cache("hot")
lock, asked, loads = asyncio.Lock(), 0, 0

@hot.cached(ttl=60)
async def slow(number: int) -> int:
    global loads
    loads += 1
    await asyncio.sleep(7)
    return number

async def app(scope, receive, send):
    global asked
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path.startswith("/slow"):
        body = str(await slow(int(path.rpartition("/")[2])))
    elif path == "/asked":
        body = f"{asked} {loads}"
    elif path.startswith("/late"):
        asked += 1
        await asyncio.sleep(7)
        body = f"{path} {asked}"
    else:
        async with lock:  # one at a time: ten a second, however many ask
            asked += 1
            await asyncio.sleep(0.1)
        body = f"{path} {asked}"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body.encode()})
"""
WSGI = """
import threading, time
from headway import cache
hot = cache("hot")
lock, asked, loads = threading.Lock(), 0, 0

@hot.cached(ttl=60)
def slow(number: int) -> int:
    global loads
    loads += 1
    time.sleep(7)
    return number

def app(environ, start_response):
    global asked
    path = environ["PATH_INFO"]
    if path.startswith("/slow"):
        body = str(slow(int(path.rpartition("/")[2])))
    elif path == "/asked":
        body = f"{asked} {loads}"
    elif path.startswith("/late"):
        asked += 1
        time.sleep(7)
        body = f"{path} {asked}"
    else:
        with lock:
            asked += 1
            time.sleep(0.1)
        body = f"{path} {asked}"
    start_response("200 OK", [("content-type", "text/plain")])
    return [body.encode()]
"""
DECLARATION = """
[system]
name = "loaded"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "loaded:app"
replicas = 1
limit = 4
slo = "1s"
deadline = "4s"
uses = ["hot"]
[services.web.cache."/products/{id}"]
ttl = "600s"
[services.web.cache."/late/{id}"]
ttl = "60s"
[caches.hot]
memory_max = "16MiB"
"""
# On a machine that is busy with other tests nothing is judged but the deadline: a load takes longer than that.


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("loaded")
    (folder / "loaded.py").write_text(ASGI if request.param == "asgi" else WSGI)
    threads = "threads = 4\n" if request.param == "wsgi" else ""
    with Running(folder, DECLARATION.replace("limit = 4\n", f"limit = 4\n{threads}")) as running:
        yield running


def counts(system: Running) -> list[int]:
    """How often the app was asked for what is or could be kept, and how often it began a load."""

    def told() -> str:
        answer = httpx.get(f"{system.url}/asked", timeout=30)
        return answer.text if answer.status_code == 200 else ""  # what went before may be at work still

    return [int(number) for number in wait_for(told, 60, "a place for it").split()]


def asked(system: Running) -> int:
    """The first of these."""
    return counts(system)[0]


def is_kept(system: Running, path: str) -> bool:
    """It is from now on, if it was not before."""
    return httpx.get(f"{system.url}{path}", timeout=30).headers.get("x-headway-cache") == "hit"


def ask_all(system: Running, paths: list[str], at_once: int = 40) -> list[httpx.Response]:
    """By so many threads, each with a client of its own: one for all closes what another reads from."""
    own = threading.local()
    new = httpx.Limits(max_keepalive_connections=0)

    def begin() -> None:
        own.client = httpx.Client(base_url=system.url, timeout=30, limits=new, verify=False)

    with ThreadPoolExecutor(at_once, initializer=begin) as threads:
        return list(threads.map(lambda path: own.client.get(path), paths))


def test_what_is_kept_goes_on_where_the_app_alone_would_refuse(system: Running) -> None:
    wait_for(lambda: is_kept(system, "/products/1"), 30, "it is kept")
    before = asked(system)

    def all_are_given() -> bool:
        """Once the edge has measured how quickly they are: at first it takes in a few more than there are places."""
        kept = ask_all(system, ["/products/1"] * 400, at_once=20)
        assert {each.headers["x-headway-cache"] for each in kept if each.status_code == 200} == {"hit"}
        return all(each.status_code == 200 for each in kept)

    wait_for(all_are_given, 90, "400 that the app alone would need 40 s for")
    assert asked(system) == before
    # As many of what is not kept are more than it can do in time, and some of them are told so at once.
    others = ask_all(system, [f"/others/{number}" for number in range(120)])
    statuses = {each.status_code for each in others}
    assert 503 in statuses
    assert {each.headers.get("retry-after") for each in others if each.status_code == 503} == {"1"}
    assert statuses <= {200, 503, 504}


def test_one_key_that_everybody_asks_for_at_once_is_one_request_of_the_app(system: Running) -> None:
    before = asked(system)
    answers = ask_all(system, ["/products/2"] * 60)
    found = [each for each in answers if each.status_code == 200]
    assert len({each.text for each in found}) == 1
    assert asked(system) == before + 1
    assert {each.status_code for each in answers} <= {200, 503}


def test_who_waits_for_anothers_load_is_told_before_long(system: Running) -> None:
    before = counts(system)[1]
    answers = ask_all(system, ["/slow/1"] * 4)
    # The load takes longer than anybody waits: by the worker 503, by the edge, which looks at the same clock, 504.
    assert {each.status_code for each in answers} <= {503, 504}

    def late() -> httpx.Response | None:
        answer = httpx.get(f"{system.url}/slow/1", timeout=30)
        return answer if answer.status_code == 200 else None

    # The load went on, and what it gave is kept: whoever began another one would be told as those before.
    assert wait_for(late, 30, "what it gave").text == "1"
    assert counts(system)[1] == before + 1


def test_who_waits_for_anothers_response_is_told_before_long(system: Running) -> None:
    before = asked(system)
    answers = ask_all(system, ["/late/1"] * 4)
    # By the worker, which says when to come again, or by the edge; both look at the same clock.
    assert {each.status_code for each in answers} <= {503, 504}
    assert all(each.headers["retry-after"] == "1" for each in answers if each.status_code == 503)

    def kept() -> httpx.Response | None:
        answer = httpx.get(f"{system.url}/late/1", headers={"cache-control": "only-if-cached"}, timeout=30)
        return answer if answer.status_code == 200 else None

    # The app went on, though nobody waited any more, and what it gave is there for whoever comes next.
    late = wait_for(kept, 30, "the response")
    assert late.headers["x-headway-cache"] == "hit"
    assert asked(system) == before + 1


@contextlib.contextmanager
def stopped(system: Running) -> Iterator[int]:
    """Its pid; after some seconds the controller replaces it."""
    pid = system.pid("cache.hot")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_kept_responses_go_on_while_their_server_stands_still(system: Running) -> None:
    wait_for(lambda: is_kept(system, "/products/3"), 30, "it is kept")
    text = httpx.get(f"{system.url}/products/3", timeout=30).text
    with stopped(system) as pid:
        for number in range(4, 9):
            answer = httpx.get(f"{system.url}/products/3", timeout=30)
            assert answer.status_code == 200
            if answer.text != text:  # a busy machine: another server has come meanwhile, which is empty
                assert number > 4
                assert system.processes().get("cache.hot") != pid
                break
            fresh = httpx.get(f"{system.url}/products/{number}", timeout=30)
            assert (fresh.status_code, fresh.headers["x-headway-cache"]) == (200, "miss")
            head = httpx.head(f"{system.url}/products/3", timeout=30)
            assert (head.status_code, head.headers["content-length"]) == (200, str(len(text)))
    system.wait_ready()
    assert httpx.get(f"{system.url}/products/9", timeout=30).status_code == 200


def test_many_at_once_meet_a_server_that_stands_still(system: Running) -> None:
    wait_for(lambda: is_kept(system, "/products/10"), 30, "it is kept")
    before = asked(system)
    with stopped(system):
        answers = ask_all(system, ["/products/10"] * 100 + ["/products/11"] * 20)
    # Those whom the edge refused are told when to come again.
    assert {(each.status_code, each.headers.get("retry-after")) for each in answers} <= {(200, None), (503, "1")}
    given = [each for each in answers if each.status_code == 200]
    assert len(given) > 20
    assert all(each.text.startswith(f"{each.url.path} ") for each in given)
    # The app was asked for the one that nobody had, and once more each time that the server came, went or was replaced.
    assert asked(system) <= before + 6
    system.wait_ready()
