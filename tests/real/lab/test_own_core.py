"""A generator that has to share its core knows that it waited for it, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from harness import die_with_parent

from headway.lab.generator import Effort, judged
from headway.lab.own_core import CoreTime

pytestmark = pytest.mark.alone

RUN_S = 0.3


def run_for(ran_s: float, cores: set[int]) -> CoreTime:
    """What a thread that may use these cores alone needed to run so long."""
    used: list[CoreTime] = []

    def work() -> None:
        os.sched_setaffinity(0, cores)  # of this thread
        began = CoreTime.now()
        until_s = time.monotonic() + 30
        while CoreTime.now().since(began).ran_s < ran_s and time.monotonic() < until_s:
            pass
        used.append(CoreTime.now().since(began))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(40)
    return used[0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a thread waited")
def test_waiting_for_a_core_is_told_from_running_on_it() -> None:
    core = min(os.sched_getaffinity(0))
    burners = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass",
            ],
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        for _ in range(2)
    ]
    try:
        for burner in burners:
            assert burner.stdout is not None
            burner.stdout.readline()  # it has its core and burns it from here on
        used = run_for(RUN_S, {core})
    finally:
        for burner in burners:
            burner.kill()
            burner.communicate()
    # Two others want the same core, so two thirds of the time went to them; other work may take more, not less.
    assert used.ran_s >= RUN_S
    assert used.waited_s > RUN_S / 2
    took_s = used.ran_s + used.waited_s
    view = judged(Effort(took_s, took_s, used.ran_s, used.waited_s), 100, {}, 50, 80.0)
    assert (view.bottleneck, view.cause) == (True, "no core to run on")
