"""A worker that lies, is silent, is late, or lives in another time: the goodput under overload does not show it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import Running
from holding import DECLARATION, GIVE_UP_S, POOL, POOL_PER_S, SLO_S, overload, system_of, tell, told, wait_told

from headway.lab.steady import SteadyLoad

pytestmark = pytest.mark.alone

RATE = 3 * POOL_PER_S


class Phase:
    """What the replica does under a load while its worker says `what`."""

    def __init__(self, system: Running, steady: SteadyLoad, what: str, for_s: int) -> None:
        self.what = what
        self.limits: list[int] = []
        file = system.folder / "says"
        file.write_text(what)
        began = steady.progress()
        while (now := steady.progress()).offered < began.offered + for_s * RATE:
            steady.wait_for(offered=now.offered + RATE // 4)
            self.limits.append(system.replicas()[0]["limit"])
        file.unlink()
        self.good_per_s = (now.ok - began.ok) / ((now.offered - began.offered) / RATE)
        self.said = told(system, "web.1")
        print(f"{what}: {self.good_per_s:.0f} good a second, limits {self.limits}", flush=True)


def test_nothing_that_a_worker_says_costs_goodput(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("lies.py"), tmp_path / "lies.py")
    with system_of(tmp_path, DECLARATION.replace("costs:app", "lies:app") + 'slo = "250ms"\n') as system:
        with SteadyLoad(system.url + POOL, RATE, slo_s=SLO_S, deadline_s=GIVE_UP_S) as steady:
            steady.wait_for(offered=3 * RATE)
            true = Phase(system, steady, "", 2)
            late = Phase(system, steady, "late", 3)
            tomorrow = Phase(system, steady, "tomorrow", 3)
            silent = Phase(system, steady, "nothing", 3)
            wait_told(system, "tells again", about="web.1")
            liar = Phase(system, steady, "no time", 7)
        tell("all that was said", steady.result)
        assert true.good_per_s > 0.7 * POOL_PER_S, "there was nothing to lose"
        # While nothing can be read the limit stays where it was, be that the lower end of a swing: three of four.
        for phase, share in ((late, 0.7), (tomorrow, 0.85), (silent, 0.7), (liar, 0.8)):
            assert phase.good_per_s >= share * true.good_per_s, phase.what
        # Late is not blind, and a clock says nothing of the work.
        assert not [sentence for sentence in tomorrow.said if "tells" in sentence]
        # A second until it counts as blind, and the reading before it.
        assert len(set(silent.limits[6:])) == 1
        assert [sentence for sentence in silent.said if "tells nothing" in sentence]
        wait_told(system, "claims service times that cannot be", about="web.1")
        assert max(liar.limits) <= 32, "of requests that take no time any number would be right"
        assert steady.result.failed <= steady.result.offered // 200
        assert steady.result.statuses.keys() <= {"200", "503"}
        assert overload(system)["mode"] == "adapt"
        assert system.replicas()[0]["restarts"] == 0
