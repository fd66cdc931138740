"""Whoever dies in a move, and whenever: the next mover carries it to its end, and no acknowledged write is lost."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator

import pytest
from harness import wait_for
from move_place import SHARD, Shop, shop, writing

from headway.errors import Conflict, EngineError
from headway.sharding.move.nouns import FORWARD, MoveResult
from headway.sharding.move.record import read_move

STAGES = FORWARD[:-1]


@pytest.fixture(scope="module")
def place() -> Iterator[Shop]:
    with shop() as found:
        found.fill(2000)
        yield found


def carry_on(place: Shop, move_id: int) -> MoveResult:
    """As the controller does: again and again, whatever does not answer."""
    deadline_s = time.monotonic() + 90
    while True:
        try:
            return place.mover().resume(move_id)
        except (EngineError, Conflict):  # or the connection of one that was killed has not ended yet
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def die_in_a_move(place: Shop, chance: random.Random, servers_die: bool) -> str:
    """One move: its mover dies once or twice, and with it perhaps a server, before or after."""
    target = place.other()
    move_id = place.mover().begin(SHARD, target)
    story = f"move {move_id} to {target}:"
    for _ in range(chance.choice((1, 1, 2))):
        stage = chance.choice(STAGES)
        nth = chance.randint(1, 12) * chance.choice((1, -1))
        story += f" mover dies at {stage} {nth};"
        child = place.child(str(move_id), stage, str(nth))
        if servers_die and chance.random() < 0.3:
            time.sleep(chance.random())
            story += _server_dies(place, chance)
        try:
            said, _ = child.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            child.kill()
            pytest.fail(f"{story} and then nothing more happens:\n{place.condition()}")
        assert child.returncode in (0, -9) or "EngineError" in said or "Conflict" in said, said
        story += f" ({child.returncode})"
    if servers_die and chance.random() < 0.5:
        name, pause_s = chance.choice(("s1", "s2")), chance.random() * 1.5
        story += f" {name} dies after {pause_s:.2f} s;"
        death = place.nurse.submit(lambda: (time.sleep(pause_s), place.kill(name)))
        result = carry_on(place, move_id)
        death.result(60)
    else:
        result = carry_on(place, move_id)
    assert (result.stage, result.verified, result.target) == ("done", True, target), f"{story} {result}"
    assert place.owner() == target, story
    assert place.leftovers() == [], story
    return story


def _server_dies(place: Shop, chance: random.Random) -> str:
    name = chance.choice(("s1", "s2"))
    place.kill(name)
    return f" {name} dies;"


@pytest.mark.parametrize("seed", range(2))
def test_a_mover_that_dies_anywhere_is_gone_on_with(place, seed):
    chance = random.Random(seed)
    with writing(place, 3, 0.002):
        die_in_a_move(place, chance, servers_die=False)


def test_servers_that_die_in_a_move_lose_nothing(place):
    with writing(place, 3, 0.002):
        move_id = place.mover().begin(SHARD, place.other())
        child = place.child(str(move_id), "fencing", "-4")
        said, _ = child.communicate(timeout=150)
        assert child.returncode == -9, said
        place.kill("s2")
        place.kill("s1")
        assert carry_on(place, move_id).verified
    assert place.leftovers() == []


def test_a_copy_that_lost_its_slot_is_made_again(place):
    """As a target leaves it that dies between a copy's last two steps: the slot is gone, the copy is not finished."""
    with writing(place, 3, 0.002):
        move_id = place.mover().begin(SHARD, place.other())
        child = place.child(str(move_id), "replicating", "1")
        child.communicate(timeout=150)
        with place.admin(place.other()) as target:
            ready = "SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel"
            wait_for(lambda: target.execute(ready).fetchone() == (True,), 100, "all is copied")
            of_counts = "WHERE srrelid::regclass::text = 'orders_0000.counts'"
            target.execute(f"UPDATE pg_subscription_rel SET srsubstate = 'f', srsublsn = NULL {of_counts}")
        assert carry_on(place, move_id).verified
    with place.admin("s1") as catalog:
        assert read_move(catalog, move_id).number("begun_again") == 1
    assert place.leftovers() == []


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 200))
def test_many_moves_with_deaths(place, seed):
    """Ten moves a seed: a thousand in all."""
    chance = random.Random(seed)
    stories = []
    with writing(place, 3, 0.005):
        for _ in range(10):
            stories.append(die_in_a_move(place, chance, servers_die=True))
            print(stories[-1], flush=True)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.long
def test_every_statement_of_every_stage_can_be_the_last(place, stage):
    for nth in (1, -1, 2, -2, 3, -3, 5, -5, 8, -8, 12, -12):
        with writing(place, 2, 0.005):
            move_id = place.mover().begin(SHARD, place.other())
            child = place.child(str(move_id), stage, str(nth))
            said, _ = child.communicate(timeout=150)
            assert child.returncode in (0, -9), said
            assert carry_on(place, move_id).verified
        assert place.leftovers() == [], f"{stage} {nth}"
