"""Splits and imports whose record says that they have ended, while servers still have what they made: it is mended."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from harness import wait_for
from import_place import JOINS, KEYS, SHARDS, Shop, shop
from split_place import Splitting, splitting

from headway.errors import Conflict
from headway.model.sharding import schema_name
from headway.sharding.admin import AdminServer
from headway.sharding.keys import shard_of
from headway.sharding.mends import Mend
from headway.sharding.remnants import SOURCE
from headway.sharding.repair import Plan
from headway.sharding.repairing import Repairer
from headway.sharding.split.nouns import SplitBounds
from headway.sharding.split.splitter import Splitter
from headway.sharding.wanted import Layout


def mend(repairer: Repairer) -> Sequence[Mend]:
    """Carry out all that is proposed, each twice, as after a kill that nobody knows the moment of."""
    found = repairer.find()
    for one in found.plan.mends:
        repairer.mend(found, one)
        repairer.mend(found, one)
    return found.plan.mends


def kinds(mends: Sequence[Mend]) -> dict[str, set[str]]:
    """What is mended where."""
    return {kind: {one.server for one in mends if one.kind == kind} for kind in {one.kind for one in mends}}


# -- splits -----------------------------------------------------------------------------------------------------------


def repairer_of(place: Splitting) -> Repairer:
    servers = place.admins()
    return Repairer(place.layout(), servers, list(place.servers), {}, lambda _line: None, lambda: False)


def write(place: Splitting, keys: Sequence[int], number: int) -> None:
    """A row of each key, by the map of before."""
    for key in keys:
        shard = shard_of(key, place.shards, "int")
        with place.admin("s1" if shard < place.shards // 2 else "s2") as admin:
            admin.execute(f"SET search_path = {schema_name('orders', shard)}".encode())
            admin.execute(f"INSERT INTO orders VALUES ({key}, {number})".encode())


def end(catalog: psycopg.Connection[Any], table: str, stage: str) -> None:
    catalog.execute(f"UPDATE headway.{table} SET stage = '{stage}', ended_at = now()".encode())
    if table == "splits":
        catalog.execute("UPDATE headway.catalog SET split = ''")


def test_what_a_split_left_that_was_given_up_writes_no_row_any_more():
    with splitting() as place:
        write(place, range(40), 1)
        repairer = repairer_of(place)
        assert repairer.find().plan.complete
        split_id = place.splitter().begin()
        child = place.child(split_id, 150)
        child.communicate(timeout=150)
        with place.admin("s1") as catalog:
            stages = {row[0] for row in catalog.execute("SELECT stage FROM headway.split_shards")}
            assert stages - {"begun"}, "it died too early to have made anything"
            # While it is under way nothing of it is touched, whoever asks.
            assert not kinds(repairer.find().plan.mends)
            with pytest.raises(Conflict, match="being split"):
                repairer.mend(repairer.find(), Mend("half", "", "", "", "s1", 0))
            assert place.leftovers()
            end(catalog, "splits", "aborted")
        done = kinds(mend(repairer))
        assert set(done) == {"half", "aside"}
        plan = repairer.find().plan
        assert plan.complete, plan
        assert all("_lost_" in line for line in plan.kept)
        write(place, range(40, 80), 2)
        assert len(place.rows("orders", "customer_id")) == 80
        assert [one for one in place.leftovers() if "_lost_" not in one] == []
        # And the next split has nothing in its way.
        assert place.split().stage == "done"


def test_what_a_split_left_that_was_done_goes_only_where_each_row_is_in_one_place():
    with splitting() as place:
        write(place, range(40), 1)
        stop = threading.Event()
        splitter = Splitter(
            "orders", place.admins(), progress=lambda _: None, stop=stop, bounds=SplitBounds(grace_s=60.0)
        )
        thread = threading.Thread(target=splitter.resume, args=(splitter.begin(),), daemon=True)
        thread.start()
        with place.admin("s1") as catalog:
            switched = "SELECT stage = 'switched' FROM headway.splits"
            wait_for(lambda: catalog.execute(switched).fetchone() == (True,), 100, "the map has eight shards")
            stop.set()  # before anything is deleted
            thread.join(100)
            assert not thread.is_alive()
            end(catalog, "splits", "done")
        plan = repairer_of(place).find().plan
        assert [one.kind for one in plan.mends] == []
        assert {one.what.partition(" has ")[0] for one in plan.decisions} == {
            f"shard {shard} on server {'s1' if shard < 2 else 's2'}" for shard in range(4)
        }
        assert "orders" in plan.decisions[0].why
        for shard in range(4):  # a person has looked, and deletes what left
            with place.admin("s1" if shard < 2 else "s2") as admin:
                admin.execute("SET session_replication_role = replica")
                for table in ("orders", "lines", "audit"):
                    where = f"{schema_name('orders', shard)}.{table}"
                    for (key,) in admin.execute(f"SELECT DISTINCT customer_id FROM {where}".encode()).fetchall():
                        if shard_of(key, 8, "int") != shard:
                            admin.execute(f"DELETE FROM {where} WHERE customer_id = {key}".encode())
        assert set(kinds(mend(repairer_of(place)))) == {"half"}
        assert repairer_of(place).find().plan.complete
        assert place.leftovers() == []
        assert len(place.rows("orders", "customer_id")) == 40


# -- imports ----------------------------------------------------------------------------------------------------------


def repairer_of_shop(place: Shop) -> Repairer:
    servers = [
        AdminServer(
            name, place.way(name), place.way(name), server.url, server.role, "postgres", server.database, is_ours=True
        )
        for name, server in place.servers.items()
        if name != "main"
    ]
    wanted = Layout(
        "shop", "orders", SHARDS, KEYS, place.reference, place.place.folder / "shards.sql", JOINS
    )  # fmt: skip
    names = [server.name for server in servers]
    return Repairer(wanted, servers, names, {}, lambda _line: None, lambda: False, None, place.source)


def die_at(place: Shop, stage: str, nth: int, *, switch: bool) -> None:
    from test_import_deaths import child

    import_id, _ = place.importer().begin(place.source)
    if switch:
        place.importer().switch()
    carrier = child(place, import_id, stage, nth)
    try:
        carrier.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        carrier.kill()
        raise
    assert carrier.returncode == -9


def plan_of(place: Shop) -> Plan:
    return repairer_of_shop(place).find().plan


def test_what_an_import_left_that_was_given_up_lets_writes_pass_again():
    with shop(customers=60) as place:
        die_at(place, "verified", 3, switch=False)
        under_way = plan_of(place)
        assert under_way.complete, under_way
        with pytest.raises(Conflict, match="being imported"):
            repairer_of_shop(place).mend(repairer_of_shop(place).find(), Mend("corner", "", "", "", "s1"))
        with place.admin("s1") as catalog:
            end(catalog, "imports", "aborted")
        with place.admin("s1") as server, pytest.raises(psycopg.Error, match="is being imported"):
            server.execute("INSERT INTO headway_reference.countries VALUES ('fr')")
        done = kinds(mend(repairer_of_shop(place)))
        assert done["corner"] == {"s1", "s2", SOURCE}
        assert done["slot"] == done["publication"] == {SOURCE}
        assert done["subscription"] == {"s1", "s2"}
        assert done["aside"] == {"s1", "s2"}
        # What it copied is kept, and the shards are as they were before it: empty.
        assert [one for one in place.leftovers(after_switch=False) if "_lost_" not in one] == []
        assert place.shard_rows("orders") == []
        plan = plan_of(place)
        assert plan.mends == (), plan
        assert any("_imported_1" in line for line in plan.kept)
        assert any("headway_import_orders_lost_1" in line for line in plan.kept)
        with place.admin("main") as source:
            source.execute("INSERT INTO countries VALUES ('fr')")
        with place.admin("s1") as server:
            row = server.execute("SELECT count(*) FROM headway_import_orders_lost_1.customers").fetchone()
            assert row is not None
            assert 0 < row[0] <= 60


def test_what_an_import_left_that_was_done_keeps_the_rows_and_the_fence_at_the_source():
    with shop(customers=60) as place:
        die_at(place, "opened", 2, switch=True)
        with place.admin("s1") as catalog:
            end(catalog, "imports", "done")
        before = place.shard_rows("orders")
        done = kinds(mend(repairer_of_shop(place)))
        assert "aside" not in done
        assert "lay_out" not in done
        assert SOURCE not in done["corner"]
        assert place.shard_rows("orders") == before == place.rows("orders")
        plan = plan_of(place)
        assert plan.complete, plan
        with place.admin("main") as source, pytest.raises(psycopg.Error, match="has gone into the shards"):
            source.execute("INSERT INTO orders (customer_id) VALUES (1)")


def test_what_the_catalog_does_not_know_is_for_a_person():
    with shop(customers=20) as place:
        die_at(place, "verified", 3, switch=False)
        with place.admin("s1") as catalog:
            catalog.execute("DELETE FROM headway.imports")
        plan = plan_of(place)
        assert "corner" not in {one.kind for one in plan.mends}
        told = [one.what for one in plan.decisions]
        assert "server s1 has fences, triggers and copies of an import" in told
        assert "the source, main, has a fence of an import" in told
