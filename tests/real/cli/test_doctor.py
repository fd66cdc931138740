"""`headway doctor` on this machine: what is there, what is missing, and what is ours."""

from __future__ import annotations

import json
import socket
from typing import Any

from command_place import Place, bound_by_modes_and_limits, few_descriptors, take_apart
from harness import Running

DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "good:app"
replicas = 1
"""


def _checks(stdout: str) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(stdout.splitlines()[-1])["checks"]}


def test_a_machine_that_has_everything(place: Place) -> None:
    place.declare('app = "good:app"')
    done = place.headway("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    marks = {line[0] for line in done.stdout.splitlines()}
    assert marks <= {"✓", "!", " "}
    for name in ("Python", "HAProxy", "PostgreSQL", "granian (web)", "descriptors", "somaxconn", "cores", "memory"):
        assert f" {name} " in done.stdout
    for line in done.stdout.splitlines():  # names in one column, values in another
        assert (line[1], line[20:22], line[22] == " ") == (" ", "  ", False), line
    place.assert_nothing_made()


def test_json_names_every_check(place: Place) -> None:
    done = place.headway("doctor", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert set(document) == {"checks", "state"}
    for check in document["checks"]:
        assert set(check) == {"name", "state", "value", "hint"}
        assert check["state"] in ("good", "warning", "bad")
    found = _checks(done.stdout)
    assert found["HAProxy"]["value"].startswith("2.")
    assert found["declaration"]["value"] == "none here"


def test_everything_bad_is_named_and_ends_with_status_1(place: Place, bare_python: str) -> None:
    place.declare(f'app = "good:app"\npython = "{bare_python}"')
    with socket.create_server(("127.0.0.1", place.port)):
        done = place.headway("doctor", "--json", before=few_descriptors)
    assert done.returncode == 1
    found = _checks(done.stdout)
    address = f"127.0.0.1:{place.port}"
    assert {name for name, check in found.items() if check["state"] == "bad"} == {
        "granian (web)",
        "descriptors",
        address,
    }
    assert found["granian (web)"]["hint"] == f'{bare_python} -m pip install "granian>=2.7,<3"'
    assert "is in use by " in found[address]["value"]
    told = take_apart(done)
    assert told.error == f"not everything a system needs is there: granian (web), descriptors, {address}"
    place.assert_nothing_made()


def test_a_folder_that_is_read_only(place: Place) -> None:
    place.folder.chmod(0o555)
    done = place.headway("doctor", "--json", before=bound_by_modes_and_limits)
    assert done.returncode == 1
    found = _checks(done.stdout)
    assert found["state folder"]["value"] == f"{place.folders.state} cannot be written"
    assert "--state DIR" in found["state folder"]["hint"]


def test_a_declaration_with_mistakes_is_one_more_check(place: Place) -> None:
    place.declare('app = "good:app"\nthread = 3')
    done = place.headway("doctor", "--json")
    assert done.returncode == 1
    assert _checks(done.stdout)["declaration"] == {
        "name": "declaration",
        "state": "bad",
        "value": "headway.toml: 1 problem",
        "hint": "headway check",
    }


def test_what_runs_is_ours(place: Place) -> None:
    with Running(place.folder, DECLARATION, detached=True) as system:
        done = place.headway("doctor", "--json")
        assert done.returncode == 0, done.stdout
        found = _checks(done.stdout)
        assert found[f"127.0.0.1:{system.port}"]["value"] == "this system listens on it"
        assert f" in {len(system.processes())} processes" in found["open files"]["value"]


def test_the_connections_of_doctor_walls_and_the_edge_are_the_same(place: Place) -> None:
    place.declare('app = "good:app"')
    declared = _connections(place)
    with Running(place.folder, DECLARATION, detached=True) as system:
        edge = system.folders.edge / "haproxy.cfg"
        assert f"    maxconn {declared}\n" in edge.read_text()
        assert _connections(place) == declared


def _connections(place: Place) -> int:
    """Of clients at once, as `doctor` and `walls` say alike."""
    told = _checks(place.headway("doctor", "--json").stdout)["descriptors"]["value"]
    walls = json.loads(place.headway("walls", "--json").stdout.splitlines()[-1])
    limit: int = next(wall["limit"] for wall in walls if wall["what"] == "edge: client connections")
    assert f" {limit:,} connections of clients at once" in told
    return limit
