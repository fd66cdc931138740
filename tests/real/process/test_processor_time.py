"""Processor time as the kernel counts it: of a command with its children, and of all the cores that are ours."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from harness import die_with_parent, wait_for

from headway.process.machine import busy_core_seconds
from headway.runtimes.local.processes import _cpu_s, _family_cpu_s

pytestmark = pytest.mark.alone

# A parent that only waits; a grandchild works for a moment and ends, a child works on.
PREFORK = """
import os, time

def work(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

if os.fork() == 0:
    if os.fork() == 0:
        work(0.3)
        os._exit(0)
    os.wait()
    work(0.5)
    time.sleep(600)
time.sleep(600)
"""


def test_children_that_work_and_those_that_have_ended_count_for_a_command() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PREFORK], start_new_session=True, preexec_fn=die_with_parent
    ) as command:
        try:
            wait_for(lambda: _family_cpu_s(command.pid) >= 0.75, 30, "its children have worked")
            assert _cpu_s(command.pid) < 0.3
        finally:
            os.killpg(command.pid, 9)
    assert _family_cpu_s(command.pid) == 0.0


def test_what_the_cores_do_grows_with_what_anybody_does() -> None:
    before_s, began_s, used_s = busy_core_seconds(), time.monotonic(), time.process_time()
    assert before_s is not None
    while time.process_time() < used_s + 0.5:
        pass
    after_s = busy_core_seconds()
    assert after_s is not None
    elapsed_s = time.monotonic() - began_s
    assert 0.4 <= after_s - before_s <= (elapsed_s + 0.1) * (os.cpu_count() or 1)
