"""The edge as the control loop drives it: what it was told outlives HAProxy, a reload and the controller."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_site import PATIENCE_S, Site, until
from harness import free_port
from queue_clients import Clients

from headway.edge.errors import EdgeRefused, EdgeUnreachable
from headway.edge.runtime_api import RuntimeApi
from headway.model.declared import System
from headway.model.overload import MAIN, SLOW, QueueBound
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted, WantedService
from headway.process.folders import Folders
from headway.process.machine import Machine
from headway.process.spec import FIRST_LISTENER_FD, ProcessSpec, ProcessState
from headway.process.supervisor_client import SupervisorClient
from headway.runtimes.local.edge import Edge

WANTED = Wanted((WantedService("web", "app", "k", 2, 1, 1, is_at_edge=True),))


class Starter(SupervisorClient):
    """Opens sockets and starts processes by itself, where no supervisor runs."""

    def __init__(self, site: Site) -> None:
        super().__init__("")
        self.site = site

    def listen(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if address not in self.listeners:
            listening = socket.create_server((host, int(port)), backlog=4096)
            self.site.sockets.append(listening)
            self.listeners[address] = listening.fileno()

    def spawn(self, spec: ProcessSpec, *, replaces: bool = False) -> ProcessState:
        former = self.site.processes[-1].pid if self.site.processes else None
        fds = [self.listeners[address] for address in spec.listeners]
        numbers = [FIRST_LISTENER_FD + index for index in range(len(fds))]

        def hand_over() -> None:
            for fd, number in zip(fds, numbers, strict=True):
                os.dup2(fd, number)

        with open(self.site.messages, "ab") as messages:
            process = subprocess.Popen(
                [*spec.argv, *([*spec.replace_argv, str(former)] if replaces else [])],
                stdout=self.site.log_fd,
                stderr=messages,
                close_fds=False,  # those of Python are not inherited anyway
                preexec_fn=hand_over,
            )
        self.site.processes.append(process)
        until(lambda: self.answers(process), "HAProxy answers")
        return ProcessState("edge", process.pid, 0, alive=True)

    def answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.site.messages.read_text()
        try:
            return self.site.api.process().pid == process.pid
        except (EdgeUnreachable, EdgeRefused):  # or the one before closes without an answer
            return False


class Place:
    """A system of one service with two replicas, and the edge in front of it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.folders = Folders(site.folder / "state", site.folder)
        for folder in (self.folders.logs, self.folders.edge):
            folder.mkdir(parents=True)
        site.api = RuntimeApi(str(self.folders.edge / "edge.sock"), PATIENCE_S)
        self.starter = Starter(site)
        self.address = f"127.0.0.1:{free_port()}"
        self.replicas = {
            name: Replica(name, "web", number, "k", Phase.READY, 0.0, ready_once=True)
            for number, name in ((1, "web.1"), (2, "web.2"))
        }
        for name in self.replicas:
            site.replica(name)
        self.edge = self.controller()

    def controller(self) -> Edge:
        """The edge in the eyes of a controller that has just started."""
        return Edge(self.folders, self.starter, Machine(1.0, 1 << 30, 4096, 4096))

    def system(self, **service: object) -> System:
        web = {"app": "a:b", "routes": "/", "replicas": 2, "deadline": "60s", "at": {"/hold/at": {"slo": "5s"}}}
        return System.model_validate({"edge": {"bind": [self.address]}, "services": {"web": {**web, **service}}})

    def apply(self, system: System, *, running: bool) -> str:
        return self.edge.apply(system, WANTED, self.replicas, self.path, running=running)

    def store(self) -> None:
        self.edge.store(self.replicas, WANTED, self.path)

    def path(self, name: str) -> str:
        return str(self.site.folder / f"{name}.sock")

    def crash(self) -> None:
        self.site.processes[-1].send_signal(signal.SIGKILL)
        self.site.processes[-1].wait()
        self.edge.start()

    def config(self) -> str:
        return (self.folders.edge / "haproxy.cfg").read_text()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr("headway.runtimes.local.edge._ANSWER_S", PATIENCE_S)
    monkeypatch.setattr("headway.edge.backend.CHECK_TIMEOUT_MS", int(1000 * PATIENCE_S))
    with Site() as site:
        place = Place(site)
        place.apply(place.system(), running=False)
        place.edge.start()
        yield place


def test_limits_and_bounds_outlive_haproxy_a_reload_and_the_controller(place: Place) -> None:
    bounds = {0: QueueBound(0), 2: QueueBound(3, overloaded=True, floor_per_s=2, newest_first=True, client_per_s=5)}
    for number, bound in bounds.items():
        assert place.edge.bound("web", number, bound) == ""
    assert place.edge.limit("web", "web.2", 7) == ""
    assert place.edge.limit("web", "web.1", 3, 2) == ""
    place.store()

    def seen() -> tuple[object, ...]:
        edge = place.edge.observe(place.site.processes[-1].pid)
        names = [
            f"proc.{field}.{ending}.web"
            for field in ("queue_max", "newest_first", "floor_per_s", "client_per_s")
            for ending in ("main", "slow", "at1")
        ]
        variables = place.site.api._exchange("; ".join(f"get var {name}" for name in names))
        limits = {name: server.limit for name, server in edge.servers.items()}
        return limits, {key: server.limit for key, server in edge.classes.items()}, variables

    before, config = seen(), place.config()
    assert before[:2] == ({"web.1": 1, "web.2": 7}, {("web.1", 2): 3, ("web.2", 2): 1})
    place.crash()
    assert seen() == before
    place.edge = place.controller()
    place.edge.adopt(place.system())
    assert place.apply(place.system(), running=True) == ""
    assert place.config() == config
    assert place.apply(place.system(sticky=True), running=True) == "reloaded"
    assert seen() == before
    assert place.edge.bound("web", 0, QueueBound(9)) == ""
    assert place.apply(place.system(sticky=True), running=True) == "", "a bound alone costs no reload"


def test_an_edge_that_was_started_again_is_told_what_its_file_did_not_hold(place: Place) -> None:
    place.site.release()
    place.edge.observe(place.site.processes[-1].pid)
    assert place.edge.assign("web", "/was-slow", SLOW) == ""
    place.store()
    assert place.edge.bound("web", MAIN, QueueBound(77, overloaded=True, newest_first=True)) == ""
    assert place.edge.assign("web", "/reports", SLOW) == ""
    assert place.edge.assign("web", "/was-slow", MAIN) == ""
    place.crash()
    asked = "get var proc.queue_max.main.web; get var proc.newest_first.main.web"
    assert "<77>" not in place.site.api._exchange(asked)
    place.edge.observe(place.site.processes[-1].pid)
    assert [line.partition("value=")[2] for line in place.site.api._exchange(asked).splitlines() if line] == [
        "<77>",
        "<1>",
    ]
    with Clients(place.site) as clients:
        assert clients.ask("/reports/7").came_from[4] == "1"
        assert clients.ask("/was-slow/7").came_from[4] == "0"


def test_the_process_before_a_reload_is_not_taken_for_the_one_that_is_to_come(place: Place) -> None:
    """What is decided for new routes must not be done where the requests still go by the old ones."""
    to_come = os.getpid()
    edge = place.edge.observe(to_come)
    assert (edge.pid, edge.reachable, edge.answered, edge.servers) == (to_come, False, False, {})
    time.sleep(0.05)
    assert place.edge.observe(to_come).unreachable_s >= 0.05
    now = place.edge.observe(place.site.processes[-1].pid)
    assert (now.reachable, set(now.servers)) == (True, {"web.1", "web.2"})


def test_a_learned_route_gets_replicas_first_and_outlives_haproxy_and_the_controller(place: Place) -> None:
    place.site.release()
    with Clients(place.site) as clients:
        assert clients.ask("/reports/7").came_from[4] == "0"
        assert place.edge.assign("web", "/reports", SLOW) == ""
        assert clients.ask("/reports/7").came_from[4] == "1"
        edge = place.edge.observe(place.site.processes[-1].pid)
        assert edge.learned == {"web": ("/reports/",)}
        assert {key for key in edge.classes if key[1] == SLOW} == {("web.1", SLOW), ("web.2", SLOW)}
        place.store()
        place.crash()
        assert clients.ask("/reports/7").came_from[4] == "1"
        place.edge = place.controller()
        place.edge.adopt(place.system())
        assert place.apply(place.system(), running=True) == ""
        assert place.edge.observe(place.site.processes[-1].pid).learned == {"web": ("/reports/",)}
        assert clients.ask("/reports").came_from[4] == "1"
        assert place.edge.assign("web", "/reports", MAIN) == ""
        assert clients.ask("/reports").came_from[4] == "0"
        place.store()
        place.crash()
        assert clients.ask("/reports").came_from[4] == "0"


def test_what_would_have_been_refused_is_counted_where_nothing_is(place: Place) -> None:
    assert place.apply(place.system(overload="observe"), running=True) == "reloaded"
    assert place.edge.bound("web", MAIN, QueueBound(2)) == ""

    def refused() -> int:
        return place.edge.observe(place.site.processes[-1].pid).queues["web", MAIN].refused

    with Clients(place.site) as clients:
        asked = clients.occupy(2)
        for name, would_be in (("a", 0), ("b", 0), ("c", 1), ("d", 2), ("e", 3)):
            asked.append(clients.wait(name, priority="u=7"))
            assert refused() == would_be
        place.site.release()
        assert {answer.result().status for answer in asked} == {200}
        assert clients.ask("/after").status == 200
        assert refused() == 3


def test_a_replica_is_drained_and_removed_in_every_class(place: Place) -> None:
    assert place.edge.assign("web", "/reports", SLOW) == ""
    assert place.edge.drain("web", "web.2") == ""
    edge = place.edge.observe(place.site.processes[-1].pid)
    assert {name: server.admin for name, server in edge.servers.items()} == {"web.1": "ready", "web.2": "drain"}
    assert {key: server.admin for key, server in edge.classes.items() if key[0] == "web.2"} == {
        ("web.2", SLOW): "drain",
        ("web.2", 2): "drain",
    }
    assert place.edge.admit("web", "web.2", place.path("web.2"), 5, 2) == ""
    server = place.edge.observe(place.site.processes[-1].pid).classes["web.2", 2]
    assert (server.admin, server.limit) == ("ready", 5)
    assert place.edge.suspend("web", "web.2") == ""
    place.site.origins["web.2"].terminate()
    until(lambda: place.edge.remove("web", "web.2") == "", "it is removed")
    edge = place.edge.observe(place.site.processes[-1].pid)
    assert {name for name, _ in edge.classes} == set(edge.servers) == {"web.1"}
    del place.replicas["web.2"]
    place.store()
    assert "web.2" not in place.config()


def test_what_cannot_be_is_told_and_breaks_nothing(place: Place) -> None:
    assert "No such server" in place.edge.limit("web", "web.9", 3)
    assert place.edge.bound("web", 0, QueueBound(-5)) == ""
    place.store()
    assert "queue_max.main.web int(0)" in place.config()
    place.edge._api = RuntimeApi(place.site.api.path, 0.25)
    place.site.processes[-1].send_signal(signal.SIGSTOP)
    try:
        assert "did not answer" in place.edge.bound("web", 0, QueueBound(5))
    finally:
        place.site.processes[-1].send_signal(signal.SIGCONT)
    assert Path(place.folders.edge / "web.slow.list").read_text().startswith("# Routes of web")


def test_a_file_that_cannot_be_written_is_an_error_text_and_written_next_time(place: Place) -> None:
    shape = place.folders.run / "edge.shape"
    shape.unlink()
    in_the_way = shape.with_name("edge.shape.new")
    in_the_way.mkdir()
    place.replicas.pop("web.2")
    told = place.edge.store(place.replicas, WANTED, place.path)
    assert told.startswith(f"{shape} cannot be written: ")
    in_the_way.rmdir()
    assert place.edge.store(place.replicas, WANTED, place.path) == ""
    assert shape.exists()
    assert place.edge.store(place.replicas, WANTED, place.path) == ""
