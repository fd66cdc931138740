"""The loop around the steps of a move, an import, a split: what is tried again, what is given up, what waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from headway.errors import AppError, Conflict, EngineError
from headway.sharding.carrying import GivenUp, StageChanged, Stopped, become_carrier, carry
from headway.sharding.stages import Staged

STAGES = ("begun", "copied", "switched", "done")
LOST = psycopg.OperationalError("the connection is lost\nand more")


class Way(Staged):
    """What is recorded of it."""

    forward = STAGES
    committed = frozenset({"switched", "done"})
    ended = frozenset({"done", "aborted"})


class Errand:
    """Work of three steps, of which the last is past the commit point; steps fail as told."""

    what = "the errand"
    needed = "everybody"

    def __init__(self, failures: dict[str, list[BaseException]]) -> None:
        self.stage = "begun"
        self.failures = failures
        self.reasons: list[str] = []
        self.waited: list[str] = []
        self.done: list[str] = []

    @property
    def record(self) -> Way:
        return Way(1, self.stage, {})

    def attempt(self, given_up: GivenUp | None, passed: Callable[[], None]) -> None:
        if given_up:
            self.reasons.append(given_up.message)
            if self.record.can_be_undone:
                self.stage = "aborting"
        while not self.record.has_ended:
            if failures := self.failures.get(self.stage):
                raise failures.pop(0)
            self.done.append(self.stage)
            self.stage = "aborted" if self.stage == "aborting" else STAGES[STAGES.index(self.stage) + 1]
            passed()

    def broken(self, waiting: str) -> None:
        self.waited.append(waiting)


def carried(
    failures: dict[str, list[BaseException]], *, away_max_s: float = 5.0, stuck_max_s: float | None = 5.0
) -> Errand:
    errand = Errand(failures)
    carry(errand, threading.Event(), away_max_s=away_max_s, stuck_max_s=stuck_max_s, again_hint="Try again.")
    return errand


def test_steps_follow_one_another() -> None:
    errand = carried({})
    assert (errand.stage, errand.done, errand.reasons) == ("done", ["begun", "copied", "switched"], [])


@pytest.mark.parametrize("stage", ["begun", "copied", "switched"])
@pytest.mark.parametrize("lost", [LOST, psycopg.errors.AdminShutdown("gone"), psycopg.InternalError("cached plan")])
def test_a_lost_connection_repeats_the_step(stage: str, lost: BaseException) -> None:
    errand = carried({stage: [lost, lost]})
    assert errand.stage == "done"
    assert errand.reasons == []
    assert len(errand.waited) == 2
    assert "\n" not in errand.waited[0]


def test_a_full_disk_is_called_that() -> None:
    errand = carried({"begun": [psycopg.errors.DiskFull("could not extend file")]})
    assert errand.waited == ["trying again: a disk is full: could not extend file"]


def test_servers_that_stay_away_undo_it_before_the_commit_point() -> None:
    errand = carried({"copied": [LOST, LOST]}, stuck_max_s=0.0)
    assert errand.stage == "aborted"
    assert errand.reasons == ["a server does not answer: the connection is lost"]


@pytest.mark.parametrize(("stage", "stuck_max_s"), [("switched", 0.0), ("begun", None)])
def test_servers_that_stay_away_are_waited_for(stage: str, stuck_max_s: float | None) -> None:
    """Past the commit point, and where nothing is undone because of them."""
    with pytest.raises(EngineError, match=f"the errand waits at stage {stage}: the connection is lost") as caught:
        carried({stage: [LOST, LOST]}, away_max_s=0.0, stuck_max_s=stuck_max_s)
    assert "by itself" in caught.value.hint


@pytest.mark.parametrize(
    "wrong", [psycopg.errors.UndefinedTable("no such table"), AppError("no such table"), GivenUp("no such table")]
)
def test_what_is_wrong_undoes_it_while_that_is_possible(wrong: BaseException) -> None:
    errand = carried({"copied": [wrong]})
    assert (errand.stage, errand.reasons) == ("aborted", ["no such table"])


@pytest.mark.parametrize(
    "wrong", [psycopg.errors.UndefinedTable("no such table"), AppError("no such table"), GivenUp("no such table")]
)
def test_what_is_wrong_past_the_commit_point_is_told(wrong: BaseException) -> None:
    with pytest.raises(EngineError, match="the errand cannot go on at stage switched: no such table"):
        carried({"switched": [wrong]})


def test_what_is_wrong_while_it_is_undone_is_told() -> None:
    with pytest.raises(EngineError, match="cannot go on at stage aborting: still there"):
        carried({"copied": [GivenUp("no")], "aborting": [AppError("still there")]})


def test_a_conflict_is_the_callers() -> None:
    with pytest.raises(Conflict):
        carried({"begun": [Conflict("another one is at it")]})


def test_a_record_that_has_changed_is_read_again() -> None:
    errand = carried({"copied": [StageChanged(), StageChanged()]})
    assert (errand.stage, errand.waited) == ("done", [])


@pytest.mark.parametrize("failure", [Stopped(), LOST, StageChanged()])
def test_stopping_leaves_it_where_it_is(failure: BaseException) -> None:
    stop = threading.Event()
    stop.set()
    errand = Errand({"copied": [failure]})
    carry(errand, stop, away_max_s=5.0, stuck_max_s=5.0, again_hint="")
    assert errand.stage == "copied"


def test_a_step_that_passes_starts_the_patience_anew() -> None:
    """Each stage loses its connection for less than the patience; together it is more."""
    errand = carried({stage: [LOST, LOST, LOST] for stage in STAGES[:3]}, away_max_s=0.3, stuck_max_s=0.3)
    assert errand.stage == "done"


def test_the_lock_of_a_killed_carrier_is_waited_for() -> None:
    tries = iter([False, False, True])
    become_carrier(lambda: next(tries), "it", threading.Event())
    assert next(tries, None) is None


def test_waiting_for_the_lock_ends_when_told_to() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        become_carrier(lambda: False, "it", stop)
