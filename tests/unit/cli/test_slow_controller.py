"""A controller that answers late, or dies between two questions, does not end the command that watches the system."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headway.cli.start import await_ready
from headway.cli.up import _Journal, _still_running
from headway.control.client import ControlClient
from headway.errors import HeadwayError, NotRunning
from headway.process.folders import Folders
from headway.process.record import write_record

LATE = HeadwayError("the controller did not answer within 10 s")
AWAY = NotRunning("the controller does not answer")


def system_that(*answers: Any) -> Any:
    """One whose control API gives these, in turn; errors are raised."""
    left = iter(answers)

    def answer(*_asked: object, **_more: object) -> Any:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return SimpleNamespace(client=SimpleNamespace(ask=answer, status=answer))


def entries(pid: int, *numbers: int) -> dict[str, Any]:
    return {"pid": pid, "entries": [{"number": number, "reason": f"{pid}/{number}"} for number in numbers]}


@pytest.mark.parametrize("error", [LATE, AWAY])
def test_the_journal_of_a_new_controller_is_read_at_the_next_look(error: HeadwayError) -> None:
    journal = _Journal(system_that(entries(7, 1, 2), entries(8), error, entries(8), entries(8, 1)))
    assert [entry["number"] for entry in journal.fresh()] == [1, 2]
    assert journal.fresh() == []
    assert [entry["reason"] for entry in journal.fresh()] == ["8/1"]


def test_a_start_waits_for_one_that_answers_late() -> None:
    ready = {"state": "ready", "failure": None}
    found = await_ready(
        system_that(AWAY, LATE, LATE, ready),
        SimpleNamespace(poll=lambda: None),  # type: ignore[arg-type]
        on_status=lambda _found: None,
        patience_s=60.0,
        is_interrupted=lambda: False,
    )
    assert found is ready


def test_what_runs_is_asked_again_while_its_controller_is_slow_or_comes_back(tmp_path: Path) -> None:
    ready = {"state": "ready"}
    system = system_that(LATE, AWAY, AWAY, LATE, ready)
    system.folders = Folders(tmp_path, tmp_path)
    write_record(tmp_path, True, [])  # of this process
    assert _still_running(system) is ready


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Folders]:
    """Of a controller that takes nobody in, while as many wait as may."""
    folders = Folders(tmp_path, tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folders.control_socket))
        listening.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(folders.control_socket))
            yield folders


def test_one_that_has_no_room_for_who_asks_is_one_that_does_not_answer(crowded: Folders) -> None:
    with pytest.raises(NotRunning):
        ControlClient(crowded).status()


def test_an_answer_that_comes_before_the_request_is_sent_counts(tmp_path: Path) -> None:
    folders = Folders(tmp_path, tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folders.control_socket))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                while b"\r\n\r\n" not in connection.recv(65536, socket.MSG_PEEK):
                    time.sleep(0.01)
                text = json.dumps({"reloaded": True})
                connection.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())

        threading.Thread(target=answer, daemon=True).start()
        # More than the kernel takes from one who reads nothing: as where the sender stood still before its body.
        found = ControlClient(folders).ask("POST", "/reload", {"text": "x" * 5_000_000}, timeout_s=30.0)
    assert found == {"reloaded": True}
