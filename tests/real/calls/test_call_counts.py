"""What processes count of their calls is there to read while they live, and goes with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from call_place import Start, answer, says
from harness import die_with_parent, wait_for

from headway.model.sharding import RUN_VARIABLE
from headway.runtimes.local.call_counts import CallCounts

_CODE = """
import sys
from headway import service
inventory = service("inventory")
for line in sys.stdin:
    inventory.sync.get("/", fallback=None, deadline=60)
    print("done", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(RUN_VARIABLE, str(tmp_path))
    return tmp_path / "calls"


@pytest.fixture
def callers(folder: Path, start: Start) -> Iterator[list[subprocess.Popen[str]]]:
    start(says(answer(200, b"ok")))
    found = [
        subprocess.Popen(
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )
        for _ in range(2)
    ]
    yield found
    for one in found:
        one.kill()
        one.communicate()


def calls(counts: CallCounts) -> int:
    return int(counts.now().get("web", {}).get("inventory", {}).get("calls", 0))


def call(caller: subprocess.Popen[str], times: int) -> None:
    assert caller.stdin is not None
    assert caller.stdout is not None
    for _ in range(times):
        caller.stdin.write("call\n")
        caller.stdin.flush()
        assert caller.stdout.readline() == "done\n"


def test_processes_tell_while_they_live(folder: Path, callers: list[subprocess.Popen[str]]) -> None:
    counts = CallCounts(folder)
    assert counts.now() == {}
    assert counts.running() == {}
    call(callers[0], 3)
    call(callers[1], 4)
    expected = {"calls": 7, "attempts": 7, "in_flight": 0, "breaker": "closed", "processes": 2}

    def told() -> bool:  # what was told in the middle of a call is told anew
        found = counts.now().get("web", {}).get("inventory", {})
        return {name: found.get(name) for name in expected} == expected

    wait_for(told, 60, "both tell")
    assert counts.running()["web", "inventory"]["calls"] == 7
    # One ends in order and takes its file along; of one that is killed it is cleared away.
    callers[0].communicate(timeout=60)
    assert len(list(folder.glob("*.json"))) == 1
    assert calls(counts) == 4
    os.kill(callers[1].pid, signal.SIGKILL)
    callers[1].wait(60)
    assert calls(counts) == 0
    assert list(folder.glob("*.json")) == []
    assert counts.running()["web", "inventory"]["calls"] == 7


def test_what_is_no_file_of_ours_is_passed_over(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text("[1]")
    (folder / "c.json").write_text(json.dumps({"pid": os.getpid(), "ticks": "x"}))
    assert CallCounts(folder).now() == {}
    assert len(list(folder.iterdir())) == 3


def test_a_place_that_cannot_be_written_holds_no_call_up(folder: Path, start: Start) -> None:
    folder.write_text("in the way")
    _, inventory = start(says(answer(200, b"ok")))
    assert [inventory.sync.get("/").text for _ in range(3)] == ["ok"] * 3
