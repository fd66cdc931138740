"""Calls while something dies, comes or goes: the edge, a replica, the supervisor, a service that is called."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from called import APP, call, caller, socket_of
from harness import Running, is_alive, wait_for

ANSWERED = "x-headway-answered"
WEB = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "told:app"
routes = ["/"]
replicas = 1
"""
CALLS = 'uses = ["stock"]\n'
STOCK = '[services.stock]\napp = "told:app"\nreplicas = 2\n'
BY_URL = 'env = { STOCK = "{stock.url}" }\n'


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "told.py").write_text(APP)
    with Running(tmp_path, WEB + BY_URL + STOCK, detached=True) as running:
        yield running


class Calling:
    """Calls one after the other, each over a connection of its own, from a thread; statuses and errors are counted."""

    def __init__(self, system: Running, service: str, path: str = "/work") -> None:
        self.answered: list[int] = []
        self.refused: list[str] = []  # connections that nobody took
        self.cut: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(system, service, path))

    def __enter__(self) -> Calling:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(90)

    def _run(self, system: Running, service: str, path: str) -> None:
        while not self._stop.is_set():
            try:
                with caller(system, service) as client:
                    self.answered.append(client.get(path).status_code)
            except httpx.ConnectError as error:
                self.refused.append(repr(error))
            except httpx.HTTPError as error:
                self.cut.append(repr(error))
            self._stop.wait(0.01)


def _apply(system: Running, declaration: str) -> None:
    (system.folder / "headway.toml").write_text(declaration.replace("$PORT", str(system.port)))
    system.up("--detach")


def _told(system: Running) -> dict[str, object]:
    seen: dict[str, object] = httpx.get(system.url, timeout=30).json()["services"]
    return seen


def test_the_death_of_the_edge_refuses_no_call(system: Running) -> None:
    with Calling(system, "stock") as calling:
        wait_for(lambda: len(calling.answered) > 5, 30, "calls are answered")
        before = system.pid("edge")
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: system.processes().get("edge") not in (None, before), 30, "the edge is back")
        done = len(calling.answered)
        wait_for(lambda: len(calling.answered) > done + 5, 60, "calls are answered again")
    assert calling.refused == []
    assert len(calling.cut) <= 1  # the one in flight
    assert set(calling.answered) == {200}


def test_a_killed_replica_costs_no_call(system: Running) -> None:
    with Calling(system, "stock") as one, Calling(system, "stock") as other:
        wait_for(lambda: len(one.answered) > 5, 30, "calls are answered")
        os.kill(system.pid("stock.1"), signal.SIGKILL)
        done = len(one.answered)
        wait_for(lambda: len(one.answered) > done + 20, 60, "calls go on")
        wait_for(lambda: all(r["state"] == "ready" for r in system.replicas("stock")), 60, "it is back")
    for calling in (one, other):
        assert (calling.refused, calling.cut, set(calling.answered)) == ([], [], {200})


def test_who_counts_its_attempts_repeats_by_itself(system: Running) -> None:
    seen: list[httpx.Response | httpx.HTTPError] = []
    threads = []
    for number in range(2):  # one at work in each replica
        name = f"attempt{number}"
        threads.append(threading.Thread(target=lambda n=name: seen.append(_attempt(system, n))))
        threads[-1].start()
        wait_for(lambda n=name: n in _ran(system), 30, "it is at work")  # type: ignore[misc]
    os.kill(system.pid("stock.1"), signal.SIGKILL)
    wait_for(lambda: seen, 30, "the one that was cut is told")
    for number in range(2):
        (system.folder / f"attempt{number}").touch()
    for thread in threads:
        thread.join(90)
    statuses = sorted(answer.status_code for answer in seen if isinstance(answer, httpx.Response))
    assert statuses == [200, 502]
    cut = next(answer for answer in seen if isinstance(answer, httpx.Response) and answer.status_code == 502)
    assert cut.headers[ANSWERED] == "unavailable"
    assert sorted(_ran(system)) == ["attempt0", "attempt1"]  # none ran twice


def _ran(system: Running) -> list[str]:
    noted = system.folder / "ran"
    return noted.read_text().split() if noted.exists() else []


def _attempt(system: Running, name: str) -> httpx.Response | httpx.HTTPError:
    try:
        return call(system, "stock", f"/gate?{name}", x_headway_attempt="1")
    except httpx.HTTPError as error:
        return error


def test_the_next_supervisor_adopts_the_way_of_calls(system: Running) -> None:
    path = Path(socket_of(system, "stock"))
    inode, ports = path.stat().st_ino, system.folders.ports.read_text()
    edge = system.pid("edge")
    supervisor = json.loads((system.folders.run / "processes.json").read_text())["supervisor"]["pid"]
    with Calling(system, "stock") as calling:
        os.kill(supervisor, signal.SIGKILL)
        wait_for(lambda: not is_alive(supervisor), 30, "the supervisor is dead")
        system.up("--detach")
        os.kill(edge, signal.SIGKILL)  # which gets the socket from the new supervisor now
        wait_for(lambda: system.processes().get("edge") not in (None, edge), 30, "the edge is back")
        done = len(calling.answered)
        wait_for(lambda: len(calling.answered) > done + 5, 60, "calls are answered again")
    assert calling.refused == []
    assert len(calling.cut) <= 1
    assert path.stat().st_ino == inode
    assert system.folders.ports.read_text() == ports
    url = httpx.get(system.url, timeout=30).json()["env"]["STOCK"]
    assert httpx.get(url, timeout=30).status_code == 200


def test_a_way_comes_and_goes_without_a_failed_request(system: Running) -> None:
    reloads = system.status()["edge"]["reloads"]
    _apply(system, WEB + STOCK)  # nobody calls it any more
    assert _told(system) == {}
    wait_for(lambda: not Path(socket_of(system, "stock")).exists(), 30, "its way is gone")
    wait_for(lambda: system.status()["services"]["stock"]["overload"] is None, 30, "the edge knows of it no more")
    with pytest.raises(httpx.ConnectError):
        call(system, "stock")
    # A way for it again: nobody from outside notices, and it is there before who is told of it.
    stop = threading.Event()
    statuses: list[int | str] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                statuses.append(httpx.get(system.url, timeout=60).status_code)
            except httpx.HTTPError as error:
                statuses.append(repr(error))
            stop.wait(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        _apply(system, WEB + CALLS + STOCK)
    finally:
        stop.set()
        asking.join(90)
    assert set(statuses) == {200}
    wait_for(lambda: system.status()["edge"]["reloads"] >= reloads + 2, 30, "it is told")
    assert system.status()["edge"]["reloads"] == reloads + 2
    assert set(_told(system)) == {"stock"}
    assert call(system, "stock").status_code == 200


def test_a_service_that_goes_while_it_is_called_is_unavailable(system: Running) -> None:
    with socket.socket(socket.AF_UNIX) as kept:  # a connection that stays open meanwhile
        kept.settimeout(60)
        kept.connect(socket_of(system, "stock"))
        kept.sendall(b"GET / HTTP/1.1\r\nHost: stock\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        with Calling(system, "stock") as calling:
            wait_for(lambda: len(calling.answered) > 3, 30, "calls are answered")
            _apply(system, WEB)
            wait_for(lambda: calling.refused, 30, "it is told to new callers")
        assert calling.cut == []
        assert set(calling.answered) <= {200, 503}
        answer = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # closed before, or with what was just sent
            kept.sendall(b"GET / HTTP/1.1\r\nHost: stock\r\n\r\n")
            answer = kept.recv(65536)  # no hang: it is closed, or tells
        assert answer == b"" or (answer.startswith(b"HTTP/1.1 503") and b"x-headway-answered: unavailable" in answer)


def test_a_called_service_is_replaced_without_a_failed_call(system: Running) -> None:
    before = {replica["pid"] for replica in system.replicas("stock")}
    with Calling(system, "stock") as calling:
        _apply(system, WEB + BY_URL + STOCK + "threads = 3\n")
        wait_for(lambda: not before & {r["pid"] for r in system.replicas("stock")}, 60, "both are new")
    assert (calling.refused, calling.cut, set(calling.answered)) == ([], [], {200})


def test_a_hung_replica_costs_no_call(system: Running) -> None:
    hung = system.pid("stock.1")
    with Calling(system, "stock") as one, Calling(system, "stock") as other:
        wait_for(lambda: len(one.answered) > 5, 30, "calls are answered")
        os.kill(hung, signal.SIGSTOP)
        wait_for(lambda: system.processes().get("stock.1") not in (None, hung), 90, "it is replaced")
        done = len(one.answered)
        wait_for(lambda: len(one.answered) > done + 20, 60, "calls go on")
    for calling in (one, other):
        assert (calling.refused, calling.cut, set(calling.answered)) == ([], [], {200})


def test_new_services_serve_before_the_edge_knows_them(system: Running) -> None:
    """One that comes with routes and calls another that comes with it: each is started once, and nobody notices."""
    more = '[services.extra]\napp = "told:app"\nroutes = ["/extra"]\nuses = ["prices"]\n'
    more += '[services.prices]\napp = "told:app"\n'
    with Calling(system, "stock") as calling:
        _apply(system, WEB + BY_URL + STOCK + more)
        assert httpx.get(system.url + "/extra", timeout=30).status_code == 200
        assert call(system, "prices").status_code == 200
    assert (calling.refused, calling.cut, set(calling.answered)) == ([], [], {200})
    started = [entry["about"] for entry in system.journal() if entry["what"] == "start"]
    assert started.count("prices.1") == 1
    assert started.count("extra.1") == 1
    assert started.count("web.1") == 1


def test_each_kind_of_client_is_told_to_the_app(system: Running) -> None:
    """One service for the outside, behind a proxy that is trusted, and for calls."""
    both = STOCK.replace('"told:app"', '"told:app"\nroutes = ["/stock"]')
    _apply(system, WEB.replace("[services.web]", 'trusted = ["127.0.0.1"]\n[services.web]') + CALLS + both)
    said = {"x-forwarded-for": "192.0.2.9", "x-forwarded-proto": "https"}
    from_outside = httpx.get(system.url + "/stock", headers=said, timeout=30).json()
    assert (from_outside["client"][0], from_outside["scheme"]) == ("192.0.2.9", "https")
    with caller(system, "stock") as client:
        called = client.get("/stock", headers=said).json()
    assert (called["client"][0], called["scheme"]) == ("127.0.0.1", "http")


def test_an_edge_that_nobody_needs_goes_and_comes_again(system: Running) -> None:
    alone = WEB.replace('routes = ["/"]\n', "") + STOCK
    _apply(system, alone)
    wait_for(lambda: "edge" not in system.processes(), 30, "the edge is gone")
    assert system.wait_ready()["edge"]["url"] is None
    _apply(system, alone.replace("[services.stock]", f"{CALLS}[services.stock]"))
    wait_for(lambda: "edge" in system.processes(), 30, "there is one")
    system.wait_ready()
    assert call(system, "stock").status_code == 200
    _apply(system, WEB + BY_URL + STOCK)
    system.wait_ready()
    assert httpx.get(system.url, timeout=30).status_code == 200


def test_a_port_that_somebody_took_is_chosen_anew(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(APP)
    system = Running(tmp_path, WEB + BY_URL + STOCK)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        system.folders.run.mkdir(mode=0o700)
        system.folders.ports.write_text(json.dumps({"stock": taken, "gone": "no port"}))
        with system:
            url = httpx.get(system.url, timeout=30).json()["env"]["STOCK"]
            assert url == f"http://127.0.0.1:{json.loads(system.folders.ports.read_text())['stock']}"
            assert not url.endswith(f":{taken}")
            assert httpx.get(url, timeout=30).status_code == 200
