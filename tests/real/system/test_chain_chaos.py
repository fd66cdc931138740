"""Services that call each other while their replicas die, hang, come and go at random: no GET of the outside fails."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from calling import APP, CHAIN, load
from harness import Running, descendants_of_session, is_alive

pytestmark = pytest.mark.alone

SERVICES = ("web", "inventory", "pricing")
SLOWEST_S = 6.0  # a replica that hangs is found within two seconds, and a chain may meet one at each level


def _is_at_work(pid: int) -> bool:
    """Whether it lives, and was not stopped by a deed before: that may not have been seen yet."""
    try:
        return is_alive(pid) and Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"T"
    except OSError:
        return False


def _deed(system: Running, dice: random.Random) -> str:
    """One random deed; its name."""
    service = dice.choice(SERVICES)
    ready = [
        replica for replica in system.replicas(service) if replica["state"] == "ready" and _is_at_work(replica["pid"])
    ]
    deed = dice.choice(("kill", "kill", "hang", "scale", "controller"))
    if deed == "controller":
        system.kill_controller()
        return "kill the controller"
    if deed == "scale":
        count = dice.choice((2, 3))
        system.ok("scale", service, str(count))
        return f"scale {service} to {count}"
    # With one alone, its death is an outage by arithmetic.
    if len(ready) < 2:
        return f"nothing: {service} has fewer than two ready"
    victim = dice.choice(ready)
    with contextlib.suppress(ProcessLookupError):  # it has ended in this moment
        os.kill(victim["pid"], signal.SIGKILL if deed == "kill" else signal.SIGSTOP)
    return f"{deed} {victim['name']}"


def _run(folder: Path, seed: int, deeds: int) -> None:
    (folder / "chain.py").write_text(APP)
    dice, story = random.Random(seed), list[str]()
    with Running(folder, CHAIN, detached=True) as system:
        with load(f"{system.url}/", threads=4) as found:
            for _ in range(deeds):
                time.sleep(dice.uniform(0.3, 2.0))
                story.append(_deed(system, dice))
                print(story[-1], flush=True)
            time.sleep(3)
        system.wait_ready()
        assert set(found.found) == {200}, f"{dict(found.found)} {story}"
        assert found.count > 20 * deeds, story
        assert found.slowest_s < SLOWEST_S, story
        assert system.status()["edge"]["reloads"] == 0
        run = system.folders.run
    assert not descendants_of_session(run)


def test_a_few_deeds(tmp_path: Path) -> None:
    _run(tmp_path, seed=1, deeds=6)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10, 22))
def test_chains_through_many_deeds(tmp_path: Path, seed: int) -> None:
    _run(tmp_path, seed, deeds=20)
