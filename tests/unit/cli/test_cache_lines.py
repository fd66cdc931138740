"""`headway cache stats` for a person."""

from __future__ import annotations

from typing import Any

from headway.caching import totals
from headway.cli.cache import stats_lines


def _lines(*processes: dict[str, str]) -> list[str]:
    functions = totals.add_up(processes)
    own = functions.pop(totals.WHOLE, {})
    server = {"name": "valkey", "version": "9.1", "used_bytes": 1024, "max_bytes": None, "keys": 3, "evicted": 0}
    told: dict[str, Any] = {
        "state": "ready",
        "url": "unix:///s",
        "server": {**server, "connected": 2, "commands_per_s": 5},
        "processes": len(processes),
        "complete": True,
        "total": totals.told({**own, **totals.overall(functions)}),
        "functions": {name: totals.told(counts) for name, counts in functions.items()},
    }
    return stats_lines("hot", told)


def test_values_by_name_have_a_row_where_an_app_uses_them() -> None:
    never, used = {"=:hits_near": "0", "shop.top:loads": "1"}, {"=:hits_near": "4", "shop.top:loads": "1"}
    assert not any("by name" in line or "=" in line or "all" in line.split() for line in _lines(never))
    shown = _lines(used)
    assert [line.split()[:3] for line in shown if "by name" in line] == [["values", "by", "name"]]
    assert any(line.split()[0] == "all" for line in shown if line)


def test_nobody_has_called_anything_yet() -> None:
    assert "no process of an app" in _lines({"=:hits_near": "0"})[-1]
    assert "no process of an app" in _lines()[-1]
