"""Short-lived programs end in time, leave nothing behind and fill no memory."""

from __future__ import annotations

import os
import sys
import time

import psutil
import pytest
from harness import wait_for

from headway.errors import EngineError
from headway.process.run import OUTPUT_MAX_BYTES, run


def test_status_and_both_outputs() -> None:
    done = run(["/bin/sh", "-c", "cat; echo bad >&2; exit 3"], stdin="given", timeout_s=60)
    assert (done.status, done.stdout, done.stderr) == (3, "given", "bad\n")


def test_a_signal_is_a_negative_status() -> None:
    assert run(["/bin/sh", "-c", "kill -9 $$"], timeout_s=60).status == -9


def test_input_and_output_larger_than_the_pipes() -> None:
    text = "x" * 900_000
    assert run(["cat"], stdin=text, timeout_s=60).stdout == text


def test_only_the_end_of_a_flood_is_kept() -> None:
    flood = f"import sys; sys.stdout.write('a' * {3 * OUTPUT_MAX_BYTES} + 'end')"
    done = run([sys.executable, "-c", flood], timeout_s=60)
    assert len(done.stdout) == OUTPUT_MAX_BYTES
    assert done.stdout.endswith("end")


def test_lines_are_heard_as_they_come() -> None:
    """The program ends when it is told that its line was heard."""
    reads, writes = os.pipe()
    heard: list[str] = []

    def hear(line: str) -> None:
        heard.append(line)
        os.write(writes, b"\n")

    done = run(
        ["/bin/sh", "-c", f"echo one; read line < /proc/{os.getpid()}/fd/{reads}; printf 'two\\nrest'"],
        timeout_s=60,
        heard=hear,
    )
    assert heard == ["one", "two"]
    assert done.stdout == "one\ntwo\nrest"


def test_a_program_that_does_not_want_its_input() -> None:
    assert run(["true"], stdin="x" * 900_000, timeout_s=60).status == 0


def test_timeout_ends_the_whole_group() -> None:
    began_s = time.monotonic()
    time_s = f"4711.{os.getpid()}"  # of this test alone
    with pytest.raises(EngineError, match=r"sh did not end within 0\.3 s"):
        run(["/bin/sh", "-c", f"sleep {time_s} & sleep {time_s}"], timeout_s=0.3)
    assert time.monotonic() - began_s < 60
    deadline_s = time.monotonic() + 60
    while any(
        time_s in process.info["cmdline"] for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]
    ):
        assert time.monotonic() < deadline_s, "a child outlived the timeout"
        time.sleep(0.02)


def test_a_child_left_behind_holds_nobody_up() -> None:
    began_s = time.monotonic()
    done = run(["/bin/sh", "-c", "sleep 100 & echo $!"], timeout_s=60)
    os.kill(int(done.stdout), 9)
    assert time.monotonic() - began_s < 50


def test_closed_pipes_do_not_outwit_the_timeout() -> None:
    with pytest.raises(EngineError, match="did not end"):
        run(["/bin/sh", "-c", "exec >&- 2>&-; sleep 100"], timeout_s=0.3)


def test_a_missing_program() -> None:
    with pytest.raises(EngineError, match="/nonexistent/program cannot be started: No such file"):
        run(["/nonexistent/program"], timeout_s=1)


def test_no_descriptor_stays_open() -> None:
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    if before is None:
        pytest.skip("needs /proc")
    for _ in range(5):
        run(["true"], timeout_s=60)
    # Whatever else goes on in this process may open one for a moment.
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= len(before), 30, "as many as before")
