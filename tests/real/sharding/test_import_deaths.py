"""Whoever dies in an import, and whenever: the next carrier brings it to its end, and no committed row is lost."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import pytest
from harness import die_with_parent, wait_for
from import_place import Shop, shop, shopping

from headway.errors import Conflict, EngineError
from headway.sharding.importing.nouns import FORWARD, Import

STAGES = FORWARD[:-1]
CHILD = Path(__file__).with_name("import_child.py")


@pytest.fixture
def place() -> Iterator[Shop]:
    with shop(customers=60) as found:
        yield found


def child(place: Shop, import_id: int, stage: str, nth: int) -> subprocess.Popen[str]:
    """A carrier that kills itself."""
    told = {
        "catalog": place.way("s1"),
        "source": place.way("main"),
        "servers": [{"name": one.name, "admin": one.admin} for one in place.import_servers],
        "reference": place.reference,
        "joins": {table: astuple(join) for table, join in place.joins.items()},
        "import": import_id,
    }
    return subprocess.Popen(
        [sys.executable, str(CHILD), json.dumps(told), stage, str(nth)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent,
    )


def carry_on(place: Shop, import_id: int) -> Import:
    """As the controller does: again and again, whatever does not answer."""
    deadline_s = time.monotonic() + 90
    while True:
        # A switch that finds no moment on a busy machine would have to be asked for again.
        importer = place.importer(switch_max_s=400.0)
        try:
            return importer.resume(import_id, place.source)
        except (EngineError, Conflict):  # or the connection of one that was killed has not ended yet
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def die_in_an_import(place: Shop, chance: random.Random, servers_die: bool) -> str:
    """One import: its carrier dies once or twice, and with it perhaps a server."""
    import_id, _ = place.importer().begin(place.source)
    story = ""
    for _ in range(chance.choice((1, 1, 2))):
        stage = chance.choice(STAGES)
        nth = chance.randint(1, 16) * chance.choice((1, -1))
        story += f" carrier dies at {stage} {nth};"
        place.importer().switch()
        carrier = child(place, import_id, stage, nth)
        if servers_die and chance.random() < 0.5:
            time.sleep(chance.random())
            name = chance.choice(("main", "s1", "s2"))
            place.kill(name)
            story += f" {name} dies;"
        try:
            said, _ = carrier.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            carrier.kill()
            pytest.fail(f"{story} and then nothing more happens")
        assert carrier.returncode in (0, -9) or "EngineError" in said or "Conflict" in said, f"{story} {said}"
        story += f" ({carrier.returncode})"
        if place.importer().now() is None:
            break
    if place.importer().now() is not None:
        place.importer().switch()
    result = carry_on(place, import_id)
    assert result.stage == "done", f"{story} {result}"
    return story


@pytest.mark.parametrize("seed", range(3))
def test_a_carrier_that_dies_anywhere_is_gone_on_with(place, seed):
    with shopping(place):
        story = die_in_an_import(place, random.Random(seed), servers_die=False)
    place.audit()
    assert place.leftovers(after_switch=True) == [], story


def test_servers_that_die_in_an_import_lose_nothing(place):
    with shopping(place):
        import_id, _ = place.importer().begin(place.source)
        place.importer().switch()
        said, _ = child(place, import_id, "switching", 4).communicate(timeout=150)
        for name in ("main", "s2", "s1"):
            place.kill(name)
        assert carry_on(place, import_id).stage == "done", said
    place.audit()
    assert place.leftovers(after_switch=True) == []


def test_a_copy_that_lost_its_slot_is_made_again(place):
    """As a server leaves it that dies between a copy's last two steps: the slot is gone, the copy is not finished."""
    with shopping(place):
        import_id, _ = place.importer().begin(place.source)
        child(place, import_id, "replicating", 1).communicate(timeout=150)
        with place.admin("s2") as server:
            ready = "SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel"
            wait_for(lambda: server.execute(ready).fetchone() == (True,), 100, "all is copied")
            server.execute(
                "UPDATE pg_subscription_rel SET srsubstate = 'f', srsublsn = NULL "
                "WHERE srrelid = (SELECT max(srrelid) FROM pg_subscription_rel)"
            )
        place.importer().switch()
        found = carry_on(place, import_id)
        assert (found.stage, found.number("begun_again")) == ("done", 1)
    place.audit()
    assert place.leftovers(after_switch=True) == []


def test_an_abort_is_gone_on_with_by_the_next_carrier(place):
    with shopping(place):
        import_id, _ = place.importer().begin(place.source)
        said, _ = child(place, import_id, "filled", 5).communicate(timeout=150)
        place.importer().abort()
        said, _ = child(place, import_id, "aborting", 9).communicate(timeout=150)
        with pytest.raises(Exception, match="aborted by hand"):
            carry_on(place, import_id)
    assert place.leftovers(after_switch=False) == [], said
    assert place.shard_rows("order_lines") == []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_imports_with_deaths(seed):
    with shop(customers=60) as place:
        with shopping(place):
            story = die_in_an_import(place, random.Random(seed), servers_die=True)
            print(story, flush=True)
        place.audit()
        assert place.leftovers(after_switch=True) == [], story


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", STAGES)
def test_every_statement_of_every_stage_can_be_the_last(stage):
    for nth in (1, -1, 2, -3, 5, -8, 12, -17):
        with shop(customers=20) as place:
            with shopping(place, 2):
                import_id, _ = place.importer().begin(place.source)
                place.importer().switch()
                said, _ = child(place, import_id, stage, nth).communicate(timeout=150)
                assert carry_on(place, import_id).stage == "done", said
            place.audit()
            assert place.leftovers(after_switch=True) == [], f"{stage} {nth}"
