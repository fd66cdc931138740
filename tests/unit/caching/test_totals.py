"""Counts of many processes, put together."""

from __future__ import annotations

from headway.caching.totals import Running, add_up, overall, told

PROCESSES = (
    {"shop.top:hits_near": "90", "shop.top:loads": "10", "shop.top:load_ms_sum": "250", "*:bytes_near": "7"},
    {"shop.top:hits_shared": "20", "a:b:c:waits": "4", "*:bytes_near": "5", "odd": "3", "x:y": "many", ":loads": "1"},
)


def test_counts_of_a_function_are_added_over_processes() -> None:
    found = add_up(PROCESSES)
    assert found["shop.top"] == {"hits_near": 90, "hits_shared": 20, "loads": 10, "load_ms_sum": 250}
    assert found["a:b:c"] == {"waits": 4}  # of a name with colons the last part is the counter
    assert found["*"] == {"bytes_near": 12}
    assert "odd" not in found
    assert "x" not in found


def test_ratios() -> None:
    found = told(add_up(PROCESSES)["shop.top"])
    assert found["calls"] == 120
    assert found["hit_ratio"] == round(110 / 120, 4)
    assert found["near_ratio"] == 0.75
    assert found["load_ms"] == 25.0


def test_a_refresh_is_no_call() -> None:
    found = told({"hits_near": 9, "loads": 4, "refreshes": 3})
    assert (found["calls"], found["hit_ratio"]) == (10, 0.9)


def test_nothing_has_no_ratio() -> None:
    found = told({})
    assert (found["calls"], found["hit_ratio"], found["load_ms"]) == (0, None, None)


def test_all_functions_together() -> None:
    assert overall({"a": {"loads": 1, "waits": 2}, "b": {"loads": 3}}) == {"loads": 4, "waits": 2}


def test_running_counters_only_grow() -> None:
    running = Running()
    first = {"a": {"f:loads": "5"}, "b": {"f:loads": "2"}}
    assert running.look(first) == {"f": {"loads": 7}}
    assert running.look(first) == {"f": {"loads": 7}}
    assert running.look({"a": {"f:loads": "6"}}) == {"f": {"loads": 8}}  # b has ended
    assert running.look({"a": {"f:loads": "1", "g:waits": "3"}}) == {
        "f": {"loads": 9},
        "g": {"waits": 3},
    }  # a began anew
    assert running.look({}) == {"f": {"loads": 9}, "g": {"waits": 3}}
