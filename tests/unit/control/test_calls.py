"""What is asked of the ticking thread is carried out by a loop that is always late as well, once, or by nobody."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from headway.control.calls import Calls
from headway.control.controller import Controller
from headway.control.stored import Applied, Store
from headway.errors import HeadwayError
from headway.model.declared import System
from headway.model.replica import Phase, Replica
from headway.process.folders import Folders


def stopped_controller(tmp_path: Path, *replicas: Replica, scaled: dict[str, int] | None = None) -> Controller:
    """A controller that finds a stored declaration with a range, and has not started."""
    folders = Folders(tmp_path / "state", tmp_path / "run")
    folders.state.mkdir()
    folders.run.mkdir()
    service = {"app": "shop:app", "folder": str(tmp_path), "replicas": {"min": 1, "max": 8}, "routes": ["/"]}
    system = System.model_validate({"name": "site", "services": {"web": service}})
    store = Store(folders.state, folders.run)
    store.save_applied(Applied(system, str(tmp_path), "headway.toml"))
    store.save_replicas({replica.name: replica for replica in replicas})
    if scaled is not None:
        store.save_scaled(scaled)
    return Controller(folders, detached=True)


def asked(calls: Calls, function, begun_within_s: float) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []

    def ask() -> None:
        try:
            found.append(calls.ask(function, begun_within_s))
        except HeadwayError as error:
            found.append(error.message)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, found


def serve_the_first(calls: Calls) -> None:
    """Carry out the call that is made next, or has been."""
    while not calls.waiting:
        time.sleep(0.001)
    calls.serve(0.0)


def test_a_loop_whose_every_turn_is_late_answers_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = stopped_controller(tmp_path)
    monkeypatch.setattr(controller, "_turn", lambda: time.sleep(0.12))
    thread = threading.Thread(target=controller.run)
    thread.start()
    try:
        assert [controller.call(lambda number=number: number, 60.0) for number in range(3)] == [0, 1, 2]
    finally:
        controller.finished.set()
        thread.join()


def test_who_gave_up_is_not_carried_out_later() -> None:
    calls, done = Calls(), []
    thread, found = asked(calls, lambda: done.append("late"), 0.01)
    thread.join()
    assert found == ["the controller is busy: nothing was changed"]
    calls.serve(0.0)
    assert done == []


def test_what_has_begun_at_the_last_moment_is_answered_by_what_came_of_it() -> None:
    calls, begun, may_end = Calls(), threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        may_end.wait(60)
        return "done"

    thread, found = asked(calls, slow, 2.0)
    server = threading.Thread(target=serve_the_first, args=(calls,))
    server.start()
    assert begun.wait(60)
    time.sleep(2.1)  # the caller's patience is over
    may_end.set()
    thread.join()
    server.join()
    assert found == ["done"]


def test_one_turn_serves_all_that_wait_and_no_more() -> None:
    calls, served = Calls(), Counter()
    threads = [asked(calls, lambda: served.update(["asked"]), 60.0)[0] for _ in range(3)]
    while calls.waiting < 3:
        time.sleep(0.001)
    calls.serve(0.0)
    for thread in threads:
        thread.join()
    assert served["asked"] == 3


def test_an_error_is_raised_where_the_call_was_made() -> None:
    calls = Calls()

    def fails() -> None:
        raise TimeoutError("of its own")

    server = threading.Thread(target=serve_the_first, args=(calls,))
    server.start()
    with pytest.raises(TimeoutError, match="of its own"):
        calls.ask(fails, 60.0)
    server.join()


def ready(number: int, key: str, retire: str = "") -> Replica:
    return Replica(f"web.{number}", "web", number, key, Phase.READY, 100.0, retire=retire, ready_once=True)


def test_a_restart_in_the_middle_of_a_roll_counts_no_replica_twice(tmp_path: Path) -> None:
    rolling = (ready(1, "one", "its source changed"), ready(2, "one", "its source changed"), ready(3, "two"))
    controller = stopped_controller(tmp_path, *rolling, scaled={"web": 2})
    assert controller.scaled == {"web": 2}
    assert controller.replicas == {"web": 2}


def test_where_no_number_is_stored_what_runs_is_counted(tmp_path: Path) -> None:
    controller = stopped_controller(tmp_path, ready(1, "one"), ready(2, "one"), ready(3, "one"))
    assert controller.replicas == {"web": 3}
