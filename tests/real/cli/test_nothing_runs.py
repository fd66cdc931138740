"""Commands where there is nothing to be commanded, and words that are no commands."""

from __future__ import annotations

import os
import subprocess

import pytest
from command_place import Place
from harness import HEADWAY, free_port


@pytest.mark.parametrize("command", [["status"], ["down"], ["scale", "web", "2"], ["status", "--watch"]])
def test_nothing_runs(place: Place, command: list[str]) -> None:
    place.declare('app = "good:app"')
    found = place.refused(*command)
    assert found.error == f"nothing runs here (state folder {place.folders.state})"
    assert found.hint == "headway up starts it"
    assert found.stdout == ""
    place.assert_nothing_made()


def test_no_logs_and_no_journal(place: Place) -> None:
    assert place.refused("logs").error == f"there are no logs in {place.folders.state}"
    assert place.refused("explain").error == f"there is no journal in {place.folders.state}"
    place.assert_nothing_made()


def test_load_against_a_closed_port(place: Place) -> None:
    port = free_port()
    found = place.refused("load", f"http://127.0.0.1:{port}", "--rate", "100", "--for", "1", "--json")
    assert found.error == f"nothing listens on 127.0.0.1:{port}"
    assert "headway up" in found.hint
    assert found.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["stauts"], "no such command 'stauts'", "headway --help"),
        (["status", "--jsno"], "no such option", "headway status --help"),
        (["scale", "web"], "missing argument 'REPLICAS|auto'", "headway scale --help"),
        (["scale", "web", "many"], "invalid value for 'REPLICAS|auto': 'many' is neither", "headway scale --help"),
        (["scale", "web", "-1"], "a service cannot have -1 replicas", "headway scale --help"),
        (["load", "http://127.0.0.1:1"], "how many requests a second?", "--rate 100"),
        (["logs", "-n", "-5"], "invalid value for '--last'", "headway logs --help"),
        (["up", "/nowhere/at/all"], "/nowhere/at/all is no file or folder here", "module:app"),
        (["up", "--state", "good.py"], "good.py is no folder, or lies in what is none", "headway up --state DIR"),
        (["init", "nowhere"], "nowhere is no folder here", "headway init FOLDER"),
        (["up", "--env", "moon"], "--env moon was asked for, but headway.moon.toml is missing", "headway.moon.toml"),
        (["load", "http://127.0.0.1:1", "--rate", "5", "--for", "soon"], '--for: "soon" is not a duration', "--for"),
    ],
)
def test_words_that_are_no_commands(place: Place, arguments: list[str], error: str, hint: str) -> None:
    place.declare('app = "good:app"')
    found = place.refused(*arguments)
    assert error in found.error
    assert hint in found.hint
    place.assert_nothing_made()


@pytest.mark.parametrize(("group", "command"), [([], "doctor"), (["db"], "backup"), (["cache"], "stats")])
def test_a_group_alone_says_what_there_is(place: Place, group: list[str], command: str) -> None:
    done = place.headway(*group)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {' '.join(['headway', *group])} [OPTIONS] COMMAND [ARGS]")
    assert f" {command} " in done.stdout


def test_output_that_finds_no_room_is_told_once() -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run([*HEADWAY, "db"], stdout=full, stderr=subprocess.PIPE, text=True, env=buffered)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\nhint: headway doctor\n")
