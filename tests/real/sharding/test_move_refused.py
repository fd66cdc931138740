"""What stands against a move is said before it begins, each with what to do; and a move can be undone at each stage."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from move_place import SCHEMA, SHARD, Shop, shop, writing
from postgresql_place import wait_for

from headway.errors import AppError, Conflict, HeadwayError
from headway.sharding.move import mover as mover_file
from headway.sharding.move.compare import Stopped
from headway.sharding.move.mover import Mover
from headway.sharding.move.nouns import FORWARD, MoveProgress, Stage
from headway.sharding.move.record import open_moves
from headway.sharding.move.work import Work


@pytest.fixture(scope="module")
def place() -> Iterator[Shop]:
    with shop() as found:
        found.fill(500)
        yield found


@pytest.fixture(autouse=True)
def clean(place: Shop) -> Iterator[None]:
    yield
    assert place.leftovers() == []


def refused(place: Shop, target: str = "") -> HeadwayError:
    with pytest.raises((AppError, Conflict)) as error:
        place.mover().begin(SHARD, target or place.other())
    assert error.value.hint
    with place.admin("s1") as catalog:
        assert open_moves(catalog) == []
    return error.value


# What is made in the shard's schema, how it is unmade, and what is said.
OBSTACLES = {
    "no key": ("CREATE TABLE loose (a int)", "DROP TABLE loose", "without a primary key.*loose"),
    "identity nothing": (
        "CREATE TABLE mute (a int PRIMARY KEY); ALTER TABLE mute REPLICA IDENTITY NOTHING",
        "DROP TABLE mute",
        "without a primary key.*mute",
    ),
    "unlogged": ("CREATE UNLOGGED TABLE hasty (a int PRIMARY KEY)", "DROP TABLE hasty", "unlogged.*hasty"),
    "large object": ("SELECT lo_create(4711)", "SELECT lo_unlink(4711)", "1 large objects"),
    "foreign key": (
        "CREATE TABLE public.other (a int PRIMARY KEY); CREATE TABLE mine (a int PRIMARY KEY REFERENCES public.other)",
        "DROP TABLE mine, public.other",
        "cross schemas: mine_a_fkey",
    ),
    "materialized view": (
        "CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM events",
        "DROP MATERIALIZED VIEW seen",
        "materialized views.*seen",
    ),
    "trigger": (
        "CREATE FUNCTION bell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER ring BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION bell();"
        "ALTER TABLE events ENABLE ALWAYS TRIGGER ring",
        "DROP FUNCTION bell() CASCADE",
        "a second time.*events.ring",
    ),
    "partition elsewhere": (
        "CREATE TABLE parts (a int PRIMARY KEY) PARTITION BY RANGE (a);"
        "CREATE TABLE public.part PARTITION OF parts FOR VALUES FROM (0) TO (9)",
        "DROP TABLE parts",
        "in another schema: part",
    ),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_cannot_move_is_named(place, obstacle):
    make, unmake, said = OBSTACLES[obstacle]
    with place.admin(place.owner()) as admin:
        admin.execute(f'SET search_path = "{SCHEMA}"')
        admin.execute(make)
        try:
            error = refused(place)
        finally:
            admin.execute(unmake)
    assert isinstance(error, AppError)
    assert re.search(said, error.message), error.message


def test_every_reason_is_told_at_once(place):
    with place.admin(place.owner()) as admin:
        admin.execute(f'CREATE TABLE "{SCHEMA}".loose (a int); CREATE UNLOGGED TABLE "{SCHEMA}".hasty (a int)')
        error = refused(place)
        admin.execute(f'DROP TABLE "{SCHEMA}".loose, "{SCHEMA}".hasty')
    assert "loose" in error.message
    assert "hasty" in error.message


def test_a_transaction_in_doubt_is_named(place, monkeypatch):
    monkeypatch.setattr("headway.sharding.move.look.PREPARED_MAX_S", 0.0)
    with place.admin(place.owner()) as admin:
        admin.execute(f"""BEGIN; INSERT INTO "{SCHEMA}".counts VALUES (99, 0); PREPARE TRANSACTION 'doubt'""")
        error = refused(place)
        admin.execute("ROLLBACK PREPARED 'doubt'")
    assert "in doubt hold their locks: doubt" in error.message


def test_a_schema_that_is_there_already_is_left_alone(place):
    other = place.other()
    with place.admin(other) as admin:
        admin.execute(f'CREATE SCHEMA "{SCHEMA}"; CREATE TABLE "{SCHEMA}".precious (a int)')
        error = refused(place)
        assert isinstance(error, Conflict)
        assert f"server {other} has a schema {SCHEMA} already" in error.message
        admin.execute(f'DROP TABLE "{SCHEMA}".precious; DROP SCHEMA "{SCHEMA}"')


def test_places_that_are_none(place):
    mover = place.mover()
    for shard, target, kind, said in (
        (7, place.other(), AppError, "database orders has no shard 7"),
        (-1, place.other(), AppError, "no shard -1"),
        (SHARD, "s9", AppError, "no server s9"),
        (SHARD, place.owner(), Conflict, f"shard {SHARD} is on server {place.owner()} already"),
    ):
        with pytest.raises(kind, match=said) as error:
            mover.begin(shard, target)
        assert error.value.hint


def altered(place: Shop, name: str, **changes: str) -> Mover:
    servers = place.move_servers
    servers[name] = replace(servers[name], **changes)
    return Mover("orders", place.way("s1"), servers, progress=place.told.append, stop=threading.Event())


def test_two_names_of_one_database(place):
    with pytest.raises(AppError, match="one and the same database"):
        altered(place, place.other(), admin=place.way(place.owner())).begin(SHARD, place.other())


def test_rights_and_roles_that_lack(place):
    owner, other = place.owner(), place.other()
    with pytest.raises(AppError, match=f"role on server {owner} may not replicate"):
        altered(place, owner, admin=place.servers[owner].url).begin(SHARD, other)
    with pytest.raises(AppError, match=f"role on server {other} may not create a subscription"):
        altered(place, other, admin=place.servers[other].url).begin(SHARD, other)
    with pytest.raises(AppError, match=f"server {other} has no role nobody_here"):
        altered(place, other, app_role="nobody_here").begin(SHARD, other)


def test_a_source_that_the_target_cannot_reach(place):
    mover = altered(place, place.owner(), replication=place.way(place.owner(), "nowhere"))
    move_id = mover.begin(SHARD, place.other())
    with pytest.raises(AppError, match=r'cannot subscribe to server .* "nowhere" does not exist'):
        mover.resume(move_id)


def test_a_definition_that_the_target_does_not_take(place):
    with place.admin(place.owner()) as admin:
        admin.execute(f"CREATE TYPE public.mood AS ENUM ('ok'); ALTER TABLE \"{SCHEMA}\".events ADD mood public.mood")
        mover = place.mover()
        with pytest.raises(AppError, match=r'type "public.mood" does not exist') as error:
            mover.resume(mover.begin(SHARD, place.other()))
        assert "Create there what it lacks" in error.value.hint
        admin.execute(f'ALTER TABLE "{SCHEMA}".events DROP mood; DROP TYPE public.mood')


def halted(place: Shop, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> int:
    """A move that came to this stage and stopped there."""

    def stop(_: Work) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(mover_file, "STEPS", {**mover_file.STEPS, stage: stop})
        move_id = place.mover().begin(SHARD, place.other())
        assert place.mover().resume(move_id).stage == stage
    return move_id


@pytest.mark.parametrize("stage", FORWARD[: FORWARD.index("fencing")])
def test_a_move_is_undone_at_every_stage_before_the_commit_point(place, stage, monkeypatch):
    owner = place.owner()
    with writing(place, 2, 0.005):
        move_id = halted(place, stage, monkeypatch)
        with pytest.raises(Conflict, match=f"stage {stage}") as error:
            place.mover().begin(SHARD, place.other())
        assert error.value.hint
        place.mover().abort(move_id)
    assert place.owner() == owner
    with pytest.raises(AppError, match="was given up: it was aborted by hand"):
        place.mover().resume(move_id)
    place.mover().abort(move_id)  # twice is once


def test_a_fence_that_a_dead_mover_left_is_undone(place):
    owner = place.owner()
    with writing(place, 2, 0.005) as writers:
        move_id = place.mover().begin(SHARD, place.other())
        child = place.child(str(move_id), "fencing", "-8")
        child.communicate(timeout=150)
        assert child.returncode == -9
        place.mover().abort(move_id)
        acked = writers[0].acked
        wait_for(lambda: writers[0].acked > acked, "writes go on")
    assert place.owner() == owner


@pytest.mark.parametrize("stage", ["switched", "opened", "unlinked", "checked"])
def test_past_the_commit_point_a_move_only_goes_on(place, stage, monkeypatch):
    target = place.other()
    with writing(place, 2, 0.005):
        move_id = halted(place, stage, monkeypatch)
        with pytest.raises(Conflict, match=f"is on server {target} already") as error:
            place.mover().abort(move_id)
        assert error.value.hint
        result = place.mover().resume(move_id)
    assert (result.stage, result.verified) == ("done", True)
    assert place.owner() == target


def test_a_mover_at_work_gives_up_when_somebody_else_aborts(place):
    """And it says whom it waits for: a transaction that has written and does not end."""
    with psycopg.connect(place.way(place.owner())) as sleeper:
        sleeper.execute(f'INSERT INTO "{SCHEMA}".counts VALUES (77, 0)')
        place.told.clear()
        mover = place.mover()
        move_id = mover.begin(SHARD, place.other())
        outcome: list[HeadwayError] = []

        def work() -> None:
            try:
                mover.resume(move_id)
            except HeadwayError as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        wait_for(lambda: any("waiting for a transaction" in told.waiting for told in place.told), "it says so")
        told = next(told for told in place.told if "waiting for a transaction" in told.waiting)
        assert f"pid {sleeper.info.backend_pid}" in told.waiting
        assert "pg_terminate_backend" in told.hint
        place.mover().abort(move_id)
        thread.join(100)
        assert "aborted by hand" in outcome[0].message
        sleeper.rollback()


def test_a_long_transaction_is_waited_for_and_does_not_stop_others(place):
    """It begins after the copy: writers go on meanwhile, and the move ends when it does."""
    with writing(place, 2, 0.005) as writers:
        sleeper = psycopg.connect(place.way(place.owner()))
        place.told.clear()
        begun: list[str] = []

        def tell(told: MoveProgress) -> None:
            if told.stage == "copied" and not begun:  # all rows are there, and the move goes on after this
                begun.append(told.stage)
                sleeper.execute(f'INSERT INTO "{SCHEMA}".counts VALUES (78, 0)')
            place.told.append(told)

        mover = Mover("orders", place.way("s1"), place.move_servers, progress=tell, stop=threading.Event())
        move_id = mover.begin(SHARD, place.other())
        thread = threading.Thread(target=mover.resume, args=(move_id,))
        thread.start()
        wait_for(lambda: any(f"pid {sleeper.info.backend_pid}" in told.waiting for told in place.told), "it says so")
        acked = writers[0].acked
        wait_for(lambda: writers[0].acked > acked + 20, "writes go on")
        assert thread.is_alive()
        sleeper.rollback()
        sleeper.close()
        thread.join(100)
        assert not thread.is_alive()


def test_rows_that_differ_undo_the_move_and_are_named(place, monkeypatch):
    move_id = halted(place, "copied", monkeypatch)
    with place.admin(place.other()) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute(f'DELETE FROM "{SCHEMA}".events WHERE writer = -1 AND seq = 1')
        admin.execute(f"""UPDATE "{SCHEMA}".events SET note = 'other' WHERE writer = -1 AND seq = 2""")
        admin.execute(f'INSERT INTO "{SCHEMA}".counts VALUES (55, 5)')
    with pytest.raises(AppError, match="table events: 1 missing, 1 different") as error:
        place.mover().resume(move_id)
    assert "table counts: 1 extra (keys (55))" in error.value.message
    assert error.value.hint


def test_a_log_that_grows_too_much_undoes_the_move(place):
    with writing(place, 2):
        mover = place.mover(wal_max_bytes=1)
        move_id = mover.begin(SHARD, place.other())
        with pytest.raises(AppError, match="of log for the move"):
            mover.resume(move_id)


def test_a_migration_in_the_middle_undoes_the_move(place, monkeypatch):
    move_id = halted(place, "verified", monkeypatch)
    with place.admin(place.owner()) as admin:
        admin.execute(f'ALTER TABLE "{SCHEMA}".events ADD added int')
        with pytest.raises(AppError, match="were changed during the move"):
            place.mover().resume(move_id)
        admin.execute(f'ALTER TABLE "{SCHEMA}".events DROP added')


def test_a_target_that_never_comes_back(place, monkeypatch):
    """The source is cleared all the same; what lies on the target goes with the next move there."""
    if place.owner() != "s1":
        place.move()  # the catalog is there, and stays
    other = place.other()
    move_id = halted(place, "replicating", monkeypatch)
    process = place.processes[other]
    process.kill()
    process.wait(60)
    place.mover().abort(move_id)
    with place.admin("s1") as admin:
        assert admin.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (0,)
    place.start_again(other)
    time.sleep(0.5)
    result = place.move()
    assert result.verified
    assert place.move().verified
