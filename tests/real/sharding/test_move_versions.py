"""Servers of different versions hand shards to each other, in both directions."""

from __future__ import annotations

import pytest
from move_place import shop, writing

from headway.sharding import postgresql
from headway.sharding.engine import Engine, find_engines

OLD = [pytest.param(16), pytest.param(15, marks=pytest.mark.long)]


@pytest.mark.parametrize("major", OLD)
def test_to_a_newer_server_and_back(major, monkeypatch):
    old = next((engine for engine in find_engines() if engine.major == major), None)
    if old is None:
        pytest.skip(f"PostgreSQL {major} is not installed")
    found = iter([old])

    def find(asked: int | None = None, usual: object = postgresql.find_postgresql) -> Engine:
        return next(found, None) or usual(asked)  # type: ignore[operator]

    monkeypatch.setattr(postgresql, "find_postgresql", find)
    with shop() as place:
        assert place.servers["s1"].engine.major == major < place.servers["s2"].engine.major
        place.fill(2000)
        with writing(place, 2, 0.005):
            results = [place.move() for _ in range(2)]
        assert [(result.target, result.verified) for result in results] == [("s2", True), ("s1", True)]
        assert place.leftovers() == []
