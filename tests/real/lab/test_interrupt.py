"""Signals that end a command end it as Ctrl-C does, also in the background, where a shell has SIGINT ignored."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from harness import on_a_terminal

PROGRAM = """
import asyncio, signal, sys, time
from headway.lab.interrupt import ended_like_ctrl_c, run

async def waits():
    print("waits", flush=True)
    try:  # a task is cancelled where it waits, never in the middle of a step
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.01)
        print("cleaned", flush=True)

def blocks():
    print("waits", flush=True)
    time.sleep(60)

before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
try:
    with ended_like_ctrl_c():
        if sys.argv[1] == "loop":
            run(waits())
        else:
            blocks()
except KeyboardInterrupt:
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    print("interrupted", flush=True)
    sys.exit(130)
"""


def ignore_interrupts() -> None:
    """For `preexec_fn`: what a shell without job control does to `command &`."""
    on_a_terminal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("before", [on_a_terminal, ignore_interrupts], ids=["terminal", "background"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("kind", ["loop", "blocking"])
def test_a_signal_ends_it_like_ctrl_c(kind: str, number: signal.Signals, before: Callable[[], None]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=before,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waits\n"
            process.send_signal(number)
            said, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert said.split() == (["cleaned", "interrupted"] if kind == "loop" else ["interrupted"])
    assert errors == ""


def test_what_a_shell_ignores_for_a_job_stays_ignored() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "loop"], stdout=subprocess.PIPE, text=True, preexec_fn=ignore_interrupts
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waits\n"
            process.send_signal(signal.SIGINT)  # Ctrl-C, meant for what runs in the foreground
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
