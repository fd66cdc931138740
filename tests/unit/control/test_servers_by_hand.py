"""Servers by hand: how long they hold, what is kept of them, and what to write so that they are declared."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.control.status import servers_line
from headway.control.stored import ServersByHand, Store, servers_in_force, with_servers
from headway.model.declared import Database, Service, System

TWO = {"a": "{env.A}", "b": "{env.B}"}


def declared(servers) -> System:
    orders = Database(shards=8, servers=servers, keys={"orders": "customer_id"})
    return System(name="shop", services={"web": Service(app="web:app", folder=".")}, databases={"orders": orders})


def test_they_hold_until_the_declaration_says_other_servers():
    by_hand = {"orders": ServersByHand(3, 2)}
    assert servers_in_force(by_hand, declared(2)) == by_hand
    assert with_servers(declared(2).databases["orders"], by_hand["orders"]).servers == 3
    for others in (1, 3, TWO):
        assert servers_in_force(by_hand, declared(others)) == {}
    assert servers_in_force({"gone": ServersByHand(3, 2)}, declared(2)) == {}
    assert with_servers(declared(2).databases["orders"], None).servers == 2


@pytest.mark.parametrize(
    ("by_hand", "line"),
    [
        (None, ""),
        (ServersByHand(3, 2), "servers = 3"),
        (ServersByHand(1, 2), "servers = 1"),
        (ServersByHand({**TWO, "c": "{env.C}"}, TWO), 'add c = "{env.C}"'),
        (ServersByHand({"a": "{env.A}"}, TWO), "take out b"),
        (ServersByHand({"a": "{env.A}", "c": "{file.c}"}, TWO), 'add c = "{file.c}", take out b'),
    ],
)
def test_what_to_write_is_said_without_the_urls_of_others(by_hand, line):
    assert servers_line(by_hand) == line


def test_they_are_kept_in_their_order(tmp_path: Path):
    store = Store(tmp_path, tmp_path)
    assert store.load_servers() == {}
    kept = {"orders": ServersByHand({"b": "{env.B}", "a": "{env.A}"}, None), "more": ServersByHand(3, 2)}
    store.save_servers(kept)
    assert store.load_servers() == kept
    assert list(store.load_servers()["orders"].servers) == ["b", "a"]  # the first holds the catalog
    (tmp_path / "servers.json").write_text("[1]")
    assert store.load_servers() == {}
