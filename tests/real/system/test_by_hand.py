"""What a person sets by hand: it is told, it survives the controller, and it can be given back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Running, wait_for

DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "pages:app"
replicas = { min = 1, max = 3 }
[services.jobs]
command = ["sleep", "1000"]
"""
PAGES = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("by-hand")
    (folder / "pages.py").write_text(PAGES)
    with Running(folder, DECLARATION, detached=True) as running:
        yield running
        running.run("hold", "--release")


@pytest.fixture
def fresh(system: Running) -> Running:
    system.ok("hold", "--release")
    system.ok("scale", "web", "auto")
    return system


def last(text: str) -> Any:
    return json.loads(text.splitlines()[-1])


def journal(system: Running, about: str, what: str) -> list[str]:
    return [entry["reason"] for entry in system.journal() if (entry["about"], entry["what"]) == (about, what)]


def test_a_hold_survives_a_killed_controller_and_is_let_go(fresh: Running) -> None:
    answer = last(fresh.ok("hold", "web", "--replicas", "2", "--limit", "30", "--for", "20m", "--json"))
    held = answer["holds"]["web"]
    assert (held["limit"], held["replicas"]) == (30, 2)
    assert held["until"] - held["since"] == pytest.approx(1200, abs=0.01)
    assert held["by"]
    wait_for(lambda: len(fresh.wait_ready()["services"]["web"]["replicas"]) == 2, 60, "there are two")
    before = {replica["pid"] for replica in fresh.status()["services"]["web"]["replicas"]}
    fresh.kill_controller()
    web = last(fresh.ok("status", "--json"))["services"]["web"]
    assert web["hold"] == held
    assert (web["wanted"], {replica["pid"] for replica in web["replicas"]}) == (2, before)
    assert web["range"] == {"min": 1, "max": 3}
    assert f"web is held: 2 replicas and limit 30, by {held['by']}, until " in fresh.ok("status")
    assert last(fresh.ok("hold", "web", "--release", "--json")) == {"released": ["web"]}
    assert fresh.status()["services"]["web"]["hold"] is None
    assert journal(fresh, "web", "hold")[-1] == f"2 replicas and limit 30, by {held['by']}, for 20 min"
    assert journal(fresh, "web", "release")[-1] == f"by {held['by']}"
    # Given back, the number goes on from where it is.
    assert fresh.status()["services"]["web"]["wanted"] == 2


def test_a_hold_ends_by_itself_and_says_so(fresh: Running) -> None:
    before = len(journal(fresh, "jobs", "release"))
    assert set(last(fresh.ok("hold", "--for", "3s", "--json"))["holds"]) == {"web", "jobs"}
    wait_for(lambda: len(journal(fresh, "jobs", "release")) > before, 30, "the hold is over")
    assert journal(fresh, "jobs", "release")[-1].startswith("it is over: as it is, by ")
    wait_for(lambda: all(not service["hold"] for service in fresh.status()["services"].values()), 30, "none is held")


def test_a_hold_ends_with_its_service(fresh: Running) -> None:
    fresh.ok("hold", "jobs")
    declaration = fresh.folder / "headway.toml"
    text = declaration.read_text()
    try:
        declaration.write_text(text[: text.index("[services.jobs]")])
        fresh.up("--detach")
        wait_for(
            lambda: journal(fresh, "jobs", "release")[-1:] and "gone" in journal(fresh, "jobs", "release")[-1],
            30,
            "dropped",
        )
        assert journal(fresh, "jobs", "release")[-1].startswith("its service is gone: as it is")
    finally:
        declaration.write_text(text)
        fresh.up("--detach")
    assert fresh.status()["services"]["jobs"]["hold"] is None


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["nope"], "there is no service 'nope'", "services are: web, jobs"),
        (["web", "--for", "8d"], "a week at most", "--for 10m"),
        (["web", "--for", "soon"], '--for: "soon" is not a duration', "5m"),
        (["--replicas", "2"], "whose number is that?", "one of: web, jobs"),
        (["jobs", "--limit", "2"], "jobs is a command", "leave --limit out"),
        (["web", "--replicas", "999"], "web cannot have 999 replicas on this machine", "headway scale web"),
        (["web", "--release", "--limit", "3"], "--release takes no numbers", "headway hold --help"),
        (["nope", "--release"], "there is no service 'nope'", "services are"),
    ],
)
def test_what_cannot_be_held_is_refused(fresh: Running, arguments: list[str], error: str, hint: str) -> None:
    done = fresh.run("hold", *arguments)
    assert done.returncode == 1
    assert error in done.stderr
    assert hint in done.stderr
    assert all(service["hold"] is None for service in fresh.status()["services"].values())


def test_scaled_by_hand_it_does_not_follow_the_load_until_it_is_given_back(fresh: Running) -> None:
    assert "does not follow the load until: headway scale web auto" in fresh.ok("scale", "web", "3")
    web = fresh.status()["services"]["web"]
    assert (web["wanted"], web["ready"], web["override"]) == (3, 3, 3)
    assert "3/3 ready (1–3, scaled by hand)" in fresh.ok("status")
    fresh.kill_controller()
    assert fresh.status()["services"]["web"]["override"] == 3
    answer = last(fresh.ok("scale", "web", "auto", "--json"))
    assert (answer["automatic"], answer["replicas"], answer["range"]) == (True, 3, {"min": 1, "max": 3})
    assert fresh.status()["services"]["web"]["override"] is None
    assert "ready (1–3)" in fresh.ok("status")
    assert journal(fresh, "web", "scale")[-1].startswith("3 → 3 replicas, given back to the load")


def test_the_lower_bound_set_by_hand_stays_too(fresh: Running) -> None:
    fresh.ok("scale", "web", "1")
    assert fresh.status()["services"]["web"]["override"] == 1


def test_without_a_range_auto_is_what_is_declared(fresh: Running) -> None:
    fresh.ok("scale", "jobs", "2")
    assert "jobs: 2 → 1 replicas" in fresh.ok("scale", "jobs", "auto")
    jobs = fresh.status()["services"]["jobs"]
    assert (jobs["wanted"], jobs["override"], jobs["range"]) == (1, None, None)


def test_a_held_number_is_not_scaled(fresh: Running) -> None:
    fresh.ok("hold", "web", "--replicas", "2")
    done = fresh.run("scale", "web", "3")
    assert done.returncode == 1
    assert "web is held at 2 replicas by" in done.stderr
    assert "headway hold web --release" in done.stderr


def test_another_range_ends_what_was_scaled_by_hand(fresh: Running) -> None:
    fresh.ok("scale", "web", "3")
    declaration = fresh.folder / "headway.toml"
    text = declaration.read_text()
    try:
        declaration.write_text(text.replace("max = 3", "max = 2"))
        fresh.up("--detach")
        web = fresh.status()["services"]["web"]
        assert (web["override"], web["wanted"], web["range"]) == (None, 2, {"min": 1, "max": 2})
    finally:
        declaration.write_text(text)
        fresh.up("--detach")


def test_a_file_of_holds_that_cannot_be_read_harms_nobody(fresh: Running) -> None:
    (fresh.state / "holds.json").write_text('{"web": {"nonsense": 1}}')
    fresh.kill_controller()
    assert fresh.status()["services"]["web"]["hold"] is None
    fresh.ok("hold", "web", "--for", "1h")
    assert json.loads((fresh.state / "holds.json").read_text())["web"]["until_s"] > time.time()
