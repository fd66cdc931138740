"""A server that is leaving is remembered until it has left."""

from __future__ import annotations

from pathlib import Path

from headway.control.stored import Departure, Store


def test_who_is_leaving_is_kept(tmp_path: Path):
    store = Store(tmp_path, tmp_path)
    assert store.load_departures() == {}
    kept = {"orders": Departure("s3", 17, "database.orders.s3", "/data/orders.s3"), "more": Departure("c", 0)}
    assert store.save_departures(kept)
    assert store.load_departures() == kept
    for broken in ("[1]", '{"orders": {"server": "s3", "later": 1}}', "not json"):
        (tmp_path / "departures.json").write_text(broken)
        assert store.load_departures() == {}


def test_a_folder_that_takes_nothing_is_told_of(tmp_path: Path):
    assert not Store(tmp_path / "not there", tmp_path).save_departures({"orders": Departure("s3", 0)})
