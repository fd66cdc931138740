"""Who carries long work: one thread each, whoever asks for it at the same moment; and what it found last is told."""

from __future__ import annotations

import contextlib
import threading
import time
from types import SimpleNamespace

import pytest

from headway.control import departing, importing, tender
from headway.control.departing import Departures
from headway.control.importing import Imports
from headway.control.tender import Tender
from headway.errors import EngineError, HeadwayError
from headway.sharding.move.nouns import MoveResult


class SlowToStart(threading.Thread):
    """A thread on a busy machine: it takes a while from its making until it lives."""

    def start(self):
        time.sleep(0.2)
        super().start()


def both(ask):
    """Ask from two threads at once; the errors of either."""
    found: list[BaseException] = []

    def one():
        try:
            ask()
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@pytest.fixture
def resumed():
    """What work is begun with, each until the end of the test."""
    over, begun = threading.Event(), []

    def resume(what):
        begun.append(what)
        over.wait(30)

    yield SimpleNamespace(begun=begun, resume=resume)
    over.set()


def test_an_import_is_carried_by_one_thread(resumed, monkeypatch):
    database = SimpleNamespace(wanted=SimpleNamespace(name="orders"))
    imports = Imports(database, None, None, threading.Event())
    monkeypatch.setattr(imports, "now", lambda: "what is under way")
    monkeypatch.setattr(imports, "_resume", resumed.resume)
    monkeypatch.setattr(importing.threading, "Thread", SlowToStart)
    assert both(imports.carry) == []
    assert resumed.begun == ["what is under way"]


def _tender() -> Tender:
    made = Tender.__new__(Tender)
    made._lock, made._carriers, made._not_before_s, made._results = threading.Lock(), {}, {}, {}
    made._tell = lambda *_told: None
    return made


def test_a_move_is_carried_by_one_thread(resumed, monkeypatch):
    made = _tender()
    made._resume = resumed.resume
    monkeypatch.setattr(tender.threading, "Thread", SlowToStart)
    assert both(lambda: made._carry(7)) == []
    assert resumed.begun == [7]


def test_a_move_that_had_to_wait_and_then_ended_is_told_as_moved(monkeypatch):
    made = _tender()
    done = MoveResult(7, 1, "s1", "s2", "done", 10, 0.1, 2.0, True, 3)
    made.database = SimpleNamespace(process="database.orders", first=SimpleNamespace(admin=""))
    made.database.servers = {"s1": None}
    made._mover = lambda *_needed: SimpleNamespace(resume=lambda _id: done)
    monkeypatch.setattr(Tender, "_first", SimpleNamespace(admin=""))
    monkeypatch.setattr(tender, "reached", lambda *_way: contextlib.nullcontext())
    monkeypatch.setattr(tender, "read_move", lambda *_asked: SimpleNamespace(source="s1", target="s2"))
    made._results[7] = EngineError("server s2 is away")
    made._resume(7)
    assert made._results[7] is done


def test_a_departure_is_looked_after_also_when_the_loop_was_busy(monkeypatch, capsys):
    monkeypatch.setattr(departing, "_LOOK_S", 0.01)
    answers = [HeadwayError("the controller is busy: nothing was changed"), KeyError("orders")]
    carried = threading.Event()
    finished = threading.Event()

    def tended():
        if answers:
            raise answers.pop(0)
        return {"orders": None}

    controller = SimpleNamespace(
        finished=finished,
        departures={"orders": None},
        applied=SimpleNamespace(system=SimpleNamespace(databases={"orders": None})),
        tended=tended,
    )
    made = Departures.__new__(Departures)
    made._controller = controller
    made._carry = lambda _database: carried.set()
    thread = threading.Thread(target=made._live, daemon=True)
    thread.start()
    try:
        assert carried.wait(30)
    finally:
        finished.set()
        thread.join(30)
    assert "KeyError" in capsys.readouterr().err
