"""Scale-ups, scale-downs and kills in a random order under steady load: nothing fails, reloads or leaks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest
from harness import Running, descendants_of_session, is_alive, wait_for

from headway.control.client import ControlClient
from headway.lab.steady import SteadyLoad

pytestmark = pytest.mark.alone

APP = """
import asyncio
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await asyncio.sleep(0.005)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "steady:app"
replicas = 3
"""
REPLICAS_MAX = 5


def _step(system: Running, client: ControlClient, dice: random.Random) -> str:
    """One random deed; its name."""
    document = client.status()
    service = document["services"]["web"]
    # The status may be a tenth of a second old: who was killed meanwhile is not ready, whatever it says.
    ready = [replica for replica in service["replicas"] if replica["state"] == "ready" and is_alive(replica["pid"])]
    deed = dice.choice(("up", "down", "kill"))
    if deed == "kill":
        # The promise is for two or more that are ready: with one alone, its death is an outage by arithmetic.
        if len(ready) < 2:
            return "no kill: fewer than two ready"
        victim = dice.choice(ready)
        with contextlib.suppress(ProcessLookupError):  # it has ended in this moment
            os.kill(victim["pid"], signal.SIGKILL)
        return f"kill {victim['name']}"
    wanted = service["wanted"]
    count = min(wanted + 1, REPLICAS_MAX) if deed == "up" else max(wanted - 1, 2)
    client.ask("POST", "/scale", {"service": "web", "replicas": count})
    return f"scale {wanted} → {count}"


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _run(folder: Path, seed: int, steps: int, rate_per_s: float) -> None:
    (folder / "steady.py").write_text(APP)
    dice = random.Random(seed)
    deeds = []
    with Running(folder, DECLARATION) as system:
        client = ControlClient(system.folders)
        before = {name: _descriptors(system.pid(name)) for name in ("supervisor", "controller", "edge")}
        with SteadyLoad(system.url + "/", rate_per_s) as load:
            load.wait_for(offered=50)
            for _ in range(steps):
                deeds.append(_step(system, client, dice))
                # Until the edge knows of it, or something else happens meanwhile: both orders are met.
                load.wait_for(offered=load.progress().offered + dice.randrange(10, int(rate_per_s)), timeout_s=30)
                wait_for(
                    lambda: sum(r["state"] == "ready" for r in system.replicas()) >= 2, 60, f"two ready after {deeds}"
                )
            client.ask("POST", "/scale", {"service": "web", "replicas": 3})
            document = system.wait_ready()
            wait_for(lambda: len(system.replicas()) == 3, 60, "three replicas and no more")
        result = load.result
        told = f"seed {seed}: {deeds}\n" + "\n".join(map(str, result.failed_requests[:20]))
        assert result.failed_requests == (), told
        assert result.failed == 0, told
        assert result.refused == 0, f"{told}\n{result.as_json()}"
        assert document["edge"]["reloads"] == 0
        names = {replica["name"] for replica in system.replicas()}
        left = {entry.name.rpartition(".")[0] for entry in system.folders.replicas.iterdir()}
        assert left == names, f"files of replicas that are gone: {left - names}"
        processes = {name for name in system.processes() if name.startswith("web.")}
        assert processes == names

        def settled() -> bool:
            now = {name: _descriptors(system.pid(name)) for name in before}
            return all(now[name] <= before[name] + 12 for name in before)

        wait_for(settled, 30, f"as few descriptors as before: {before}")
        run = system.folders.run
    assert not run.exists()
    assert descendants_of_session(run) == []


@pytest.mark.timeout(240)
def test_random_scaling_and_killing_fails_nothing(tmp_path: Path) -> None:
    _run(tmp_path, seed=1, steps=30, rate_per_s=100)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 6))
def test_a_hundred_steps_fail_nothing(tmp_path: Path, seed: int) -> None:
    _run(tmp_path, seed=seed, steps=100, rate_per_s=100)
