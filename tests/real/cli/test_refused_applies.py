"""A system that runs: what cannot be applied is refused, what ran before runs on, and nobody outside notices.

All tests share one system under a steady load, and each leaves it as it found it: the first declaration in force.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from command_place import GOOD, Place, Refused, take_apart
from harness import HEADWAY, Running, wait_for

from headway.lab.steady import SteadyLoad

pytestmark = pytest.mark.alone  # a load runs beside each of them, and none of it may be refused

FIRST = """
[system]
name = "shop"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "good:app"
routes = ["/"]
replicas = 2
env = { COLOUR = "{env.COLOUR}" }
"""
RATE_PER_S = 60


@dataclass(frozen=True, slots=True)
class Shop:
    """The running system and the load on it."""

    system: Running
    place: Place
    load: SteadyLoad

    def up(self, declaration: str, colour: str = "blue") -> subprocess.CompletedProcess[str]:
        self.place.write({"headway.toml": declaration})
        return self.place.headway("up", "--detach", "--json", env={"COLOUR": colour})

    def refused(self, declaration: str, colour: str = "blue") -> Refused:
        """An `up` that must fail and change nothing: the same processes, declaration, routes, no reload."""
        before = self.shape()
        done = self.up(declaration, colour)
        assert done.returncode == 1, done.stdout
        wait_for(lambda: self.shape() == before, 60, f"everything as it was: {before}, not {self.shape()}")
        self.assert_nobody_noticed()
        return take_apart(done)

    def shape(self) -> dict[str, Any]:
        document = self.system.quick_status()
        assert document is not None
        services = {
            name: (service["declared"], service["wanted"], tuple(service["routes"]), service["release"])
            for name, service in document["services"].items()
        }
        pids = {replica["name"]: replica["pid"] for replica in self.system.replicas()}
        return {"state": document["state"], "edge": document["edge"], "services": services, "pids": pids}

    def status(self) -> dict[str, Any]:
        document = self.system.quick_status()
        assert document is not None
        return document

    def assert_nobody_noticed(self) -> None:
        """Some more requests, and still none that failed since the load began."""
        progress = self.load.wait_for(offered=self.load.progress().offered + 20)
        assert (progress.failed, progress.refused) == (0, 0), f"{progress}\n{self.not_served()}"

    def not_served(self) -> str:
        """What the edge wrote of requests that were not answered as they should be, and what was done around them."""
        log = (self.system.folders.logs / "access.log").read_text().splitlines()
        lines = [line for line in log if '"status":200' not in line.replace(" ", "")][-20:]
        done = [f"{one['time']} {one['about']} {one['what']}: {one['reason']}" for one in self.system.journal()[-40:]]
        return "\n".join([*lines, *done])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text("raise RuntimeError('out of stock')\n")
    (folder / "red.py").write_text("import os\nif os.environ['COLOUR'] == 'red': raise RuntimeError('red')\n" + GOOD)
    (folder / "slow.py").write_text("import time\ntime.sleep(1.5)\n" + GOOD)
    held = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.05)\n"
    (folder / "held.py").write_text(held + GOOD)
    with Running(folder, FIRST, detached=True, env={"COLOUR": "blue"}) as system:
        with SteadyLoad(system.url + "/", RATE_PER_S) as load:
            yield Shop(system, Place(folder, system.port), load)
        last = Shop(system, Place(folder, system.port), load).not_served()
        assert load.result.failed_requests == (), last
        assert set(load.result.as_json()["statuses"]) == {"200"}, last


@pytest.fixture
def shop(running: Shop) -> Iterator[Shop]:
    yield running
    done = running.up(FIRST)
    assert done.returncode == 0, done.stderr
    running.assert_nobody_noticed()


def test_the_same_again_changes_nothing(shop: Shop) -> None:
    before = shop.shape()
    done = shop.up(FIRST)
    assert (done.returncode, done.stderr) == (0, "nothing changed\n")
    assert shop.shape() == before


def test_a_broken_declaration(shop: Shop) -> None:
    found = shop.refused(FIRST + "colour = 3\n[services.b]\n")
    assert found.error == "headway.toml: 2 problems"
    assert "services.web.colour: unknown key" in found.problems
    assert "services.b" in found.problems


def test_an_app_that_does_not_import(shop: Shop) -> None:
    found = shop.refused(FIRST.replace("good:app", "bad:app"))
    assert found.error == "services.web: importing bad failed: RuntimeError: out of stock"
    assert str(shop.place.folder / "bad.py") in found.before
    # And again: what the first attempt left is not taken for the second one's.
    assert shop.refused(FIRST.replace("good:app", "bad:app")).error == found.error


def test_a_new_service_that_does_not_start_gets_no_request(shop: Shop) -> None:
    # It would take all of web's requests.
    declaration = FIRST.replace('routes = ["/"]', 'routes = ["/web"]')
    found = shop.refused(declaration + '[services.api]\napp = "bad:app"\nroutes = ["/"]\nreplicas = 1\n')
    assert found.error == "services.api: importing bad failed: RuntimeError: out of stock"


def test_a_port_that_is_taken(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = shop.refused(FIRST.replace("$PORT", f'$PORT", "127.0.0.1:{port}'))
    assert found.error.startswith(f"edge.bind: 127.0.0.1:{port} is in use by ")


def test_a_value_of_the_environment_that_the_app_refuses(shop: Shop) -> None:
    declaration = FIRST.replace("good:app", "red:app")
    found = shop.refused(declaration, colour="red")
    assert found.error == "services.web: importing red failed: RuntimeError: red"


def test_replicas_environment_and_routes(shop: Shop) -> None:
    before = shop.shape()
    done = shop.up(FIRST.replace("replicas = 2", "replicas = 3"))
    assert "services.web.replicas: 2 → 3" in done.stderr
    assert set(shop.shape()["pids"]) == {"web.1", "web.2", "web.3"}
    assert before["pids"].items() <= shop.shape()["pids"].items()

    done = shop.up(FIRST, colour="green")
    assert "environment variable COLOUR: another value" in done.stderr
    after = shop.shape()
    assert set(after["pids"].values()).isdisjoint(before["pids"].values())
    assert after["edge"] == before["edge"]

    done = shop.up(FIRST.replace('["/"]', '["/", "shop.test"]'), colour="green")
    assert "the edge reloads" in done.stderr
    reloaded = shop.shape()
    assert reloaded["pids"] == after["pids"]
    assert reloaded["edge"]["reloads"] == before["edge"]["reloads"] + 1
    # The edge is another process now, and known as such.
    assert reloaded["edge"]["pid"] == shop.system.pid("edge") != before["edge"]["pid"]


def test_a_new_service_takes_over_a_route(shop: Shop) -> None:
    declaration = FIRST.replace('routes = ["/"]', 'routes = ["/web"]')
    done = shop.up(declaration + '[services.api]\napp = "slow:app"\nroutes = ["/"]\nreplicas = 1\n')
    assert done.returncode == 0, done.stderr
    assert set(shop.status()["services"]) == {"web", "api"}
    shop.assert_nobody_noticed()


def test_scale_to_what_cannot_be(shop: Shop) -> None:
    before = shop.shape()
    found = shop.place.refused("scale", "web", "10000")
    assert found.error.startswith("web cannot have 10000 replicas on this machine: at most ")
    found = shop.place.refused("scale", "shop", "2")
    assert (found.error, found.hint) == ("there is no service 'shop'", "services are: web")
    assert shop.place.refused("logs", "cart").error == "there is no log of 'cart'"
    assert shop.shape() == before


def test_a_second_apply_is_refused(shop: Shop) -> None:
    shop.place.write({"headway.toml": FIRST.replace("good:app", "held:app")})
    command = [*HEADWAY, "up", "--detach"]
    with subprocess.Popen(
        command, cwd=shop.place.folder, env=shop.system.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as first:
        wait_for(lambda: len(shop.system.replicas()) > 2, 60, "the first apply starts a replica")
        try:
            second = shop.up(FIRST)
            assert second.returncode == 1
            assert take_apart(second).error == "another apply is in progress"
        finally:
            (shop.place.folder / "go").touch()
            first.communicate(timeout=60)
    assert first.returncode == 0


def test_a_start_beside_a_controller_that_is_away(shop: Shop) -> None:
    supervisor, controller = shop.system.pid("supervisor"), shop.system.pid("controller")
    os.kill(controller, signal.SIGKILL)
    done = shop.up(FIRST.replace("replicas = 2", "replicas = 1"))
    assert done.returncode == 0, done.stderr
    assert "services.web.replicas: 2 → 1" in done.stderr
    assert shop.system.pid("supervisor") == supervisor
    assert shop.system.pid("controller") != controller
