"""`headway drill` as a process: a short one on a small app, its end by signal, and everything it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from command_place import Place, take_apart
from harness import HEADWAY, descendants_of_session, die_with_parent

from headway.cli.drill import tell
from headway.errors import MachineError
from headway.lab.drill.findings import Drill, Subject
from headway.lab.drill.search import Capacity

DRILL_S = 110.0
# The same command with every part of a quick drill, each shorter: figures are told, not judged by here.
IN_A_HURRY = """
from dataclasses import replace
import headway.cli.drill as drill
from headway.cli.main import main

drill.QUICK = replace(drill.QUICK, settle_s=0.8, step_s=1.0, burst_s=0.75, watched_s=2.0, death_s=1.5)
main()
"""
# About 100 answers a second, whatever the machine: the generator stays small, and the app is drilled far beyond it.
SMALL = """
import asyncio

places = asyncio.Semaphore(1)


async def app(scope, receive, send):
    assert scope["type"] == "http"
    async with places:
        await asyncio.sleep(0.01)
    status = {"/gone": 404, "/bad": 500}.get(scope["path"], 200)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.fixture
def drilled(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place whose temporary folders can be looked through afterwards."""
    place.write({"small.py": SMALL})
    place.declare('app = "small:app"\nslo = "120ms"\nlimit = 4')
    temporary = place.folder / "tmp"
    temporary.mkdir()
    temporary.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place


def left(place: Place) -> list[str]:
    return [str(path) for path in (place.folder / "tmp").iterdir()] + descendants_of_session(place.folder / "tmp")


@pytest.mark.alone
def test_a_quick_drill_tells_what_the_app_does_and_leaves_nothing(drilled: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_HURRY, "drill", "--quick", "--json", "--report", "page.html"],
        cwd=drilled.folder,
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DRILL_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # It answers one request in 10 ms, so at most 100/s; what a queue of 120 ms takes in is an eighth more at the most.
    assert 20 < found["capacity"]["per_s"] < 115
    assert [step["times"] for step in found["steps"]] == [0.5, 1, 2, 5, 10]
    for step in found["steps"]:
        assert step["void"] or step["offered"] > 0
    half = found["steps"][0]
    assert half["goodput_per_s"] > 0.5 * half["rate_per_s"]
    assert found["subject"]["slo_from"] == "declared"
    assert found["death"]["of"] == 1
    assert found["death"]["back_s"] is not None
    assert len(found["recovery"]["slices"]) == 8
    page = (drilled.folder / "page.html").read_text()
    assert "<svg" in page
    assert left(drilled) == []
    assert not drilled.folders.state.exists(), "a drill has nothing to do with the system of this folder"


def in_the_background() -> None:
    """For `preexec_fn`: what a shell without job control does to `command &`, besides dying with the test."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("before", [die_with_parent, in_the_background])
def test_a_drill_that_is_interrupted_ends_what_it_started(drilled: Place, before: Callable[[], None]) -> None:
    process = subprocess.Popen(
        [*HEADWAY, "drill", "--quick"],
        cwd=drilled.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "trying" in line:
            break
    process.send_signal(signal.SIGTERM)
    _out, error = process.communicate(timeout=DRILL_S)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert left(drilled) == []


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("--path", "health"), "is no path", "--path /health"),
        (("--slo", "soon"), "--slo:", "--slo 250ms"),
        (("--sizes", "999"), "cannot be given to workers", "--sizes 1"),
        (("--sizes", "x"), "is no list of cores", "--sizes 1"),
        (("--report", "no/such/page.html"), "cannot be written", "a folder that you may write to"),
        (("--url", "http://127.0.0.1:1/", "--bare"), "takes no target", "headway drill TARGET"),
        (("--url", "http://127.0.0.1:1/"), "nothing listens", "headway up"),
        (("--url", "http://192.0.2.7/"), "192.0.2.7 is not this machine", "--yes"),
        (("--url", "ftp://127.0.0.1/"), "only http", "http://127.0.0.1:8000"),
        (("nothing:app",), "there is no module", "module:attribute"),
        (("--path", "/gone"), "answers 404", "--path"),
        (("--path", "/bad"), "answers 500 without any load", "--path"),
    ],
)
def test_what_cannot_be_drilled(drilled: Place, arguments: tuple[str, ...], error: str, hint: str) -> None:
    done = drilled.headway("drill", "--json", *arguments)
    assert done.returncode == 1
    refused = take_apart(done)
    assert error in refused.error
    assert hint in refused.hint
    assert done.stdout == ""
    assert left(drilled) == []


def test_data_that_is_not_its_own_is_not_loaded_without_asking(drilled: Place) -> None:
    drilled.declare('app = "small:app"\nenv = { DATA = "{env.DATA}" }')
    refused = drilled.refused("drill", env={"DATA": "postgresql://shop:secret@db.example/shop"})
    assert "services.web.env.DATA" in refused.error
    assert "secret" not in refused.error + refused.hint
    assert "--yes" in refused.hint


def test_figures_are_told_before_the_page_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    subject = Subject("shop", "http://127.0.0.1:8000/", "web", 2, 0.25, "declared", 1.0, 4)
    with pytest.raises(MachineError, match="/dev/full cannot be written: No space left"):
        tell(Drill(subject, Capacity(400.0, "system")), "/dev/full", as_json=True)
    assert json.loads(capsys.readouterr().out)["capacity"]["per_s"] == 400


def test_the_page_is_not_begun_by_a_drill_that_is_refused(drilled: Place) -> None:
    drilled.refused("drill", "--report", "page.html", "--path", "nowhere")
    assert not Path(drilled.folder / "page.html").exists()
