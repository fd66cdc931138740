"""What a class's variables are called, and that the file can be read back."""

from __future__ import annotations

import pytest

from headway.edge.queues import classes, queue_lines, read_bounds, variable, variable_lines, variables
from headway.model.edge import EdgeClass, EdgeService
from headway.model.overload import MAIN, SLOW, QueueBound

BOUNDS = {
    ("my-api", MAIN): QueueBound(40, overloaded=True, newest_first=True, floor_per_s=3, client_per_s=7),
    ("my-api", SLOW): QueueBound(0),
    ("my-api", 2): QueueBound(1_000_000, overloaded=True),
    ("my_api", MAIN): QueueBound(5, newest_first=True),
}


def service(name: str, level: int = 1) -> EdgeService:
    rest = tuple(EdgeClass(n, (), (), 9.0, bound=bound) for (of, n), bound in BOUNDS.items() if of == name and n)
    return EdgeService(name, (), (), 30.0, 2**20, level=level, bound=BOUNDS[name, MAIN], classes=rest)


def test_the_file_holds_every_bound_and_is_read_back() -> None:
    lines = variable_lines((service("my-api"), service("my_api")))
    assert len(lines) == len(set(lines)) == 5 * len(BOUNDS)
    text = "global\n" + "".join(f"    {line}\n" for line in lines) + "defaults\n"
    assert read_bounds(text) == BOUNDS
    assert read_bounds("global\n    maxconn 5\n") == {}


def test_no_two_classes_share_a_variable() -> None:
    services = ("web", "web-slow", "web_slow", "web-at1", "slow", "main", "at1-web", "main-web")
    names = [variable("queue_max", name, number) for name in services for number in range(8)]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._") for name in names)


def test_floor_and_fairness_are_in_force_under_overload_alone() -> None:
    calm = variables("web", MAIN, QueueBound(9, floor_per_s=3, client_per_s=7))
    assert [name for name, value in calm.items() if value] == ["proc.queue_max.main.web"]


@pytest.mark.parametrize(("level", "demotions"), [(0, [2, 3]), (1, [2, 3]), (2, [3]), (3, [])])
def test_a_priority_header_demotes_and_never_promotes(level: int, demotions: list[int]) -> None:
    (main, *_) = classes(service("my_api", level))
    said = [line for line in queue_lines(service("my_api", level), main) if "req.hdr(priority)" in line]
    assert [int(line.partition("int(")[2][0]) for line in said] == demotions
