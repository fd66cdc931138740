"""The picture of a running load, as text."""

from __future__ import annotations

from headway.cli.load_view import LoadPicture, sparkline
from headway.lab.outcome import Progress


def test_a_sparkline_shows_heights_and_leaves_out_nothing_small() -> None:
    assert sparkline([0, 1, 50, 100], 100) == " ▁▅█"
    assert sparkline([0, 0], 0) == "  "


def test_rates_are_of_the_time_since_the_last_look_and_share_one_height() -> None:
    picture = LoadPicture("http://h/")
    picture.lines(Progress(0.5, 10, 50, 50, 0, 0, 0, 0))
    lines = [line for line, _ in picture.lines(Progress(1.0, 10, 150, 140, 0, 5, 0, 5, 12.3, 1500.0))]
    assert "1 of 10 s  http://h/" in lines[0]
    assert lines[0].count("━") == 3
    assert lines[2:] == [
        "  offered        200/s  ▅█",
        "  goodput        180/s  ▅▇",
        "  late             0/s    ",
        "  refused         10/s   ▁",
        "  failed           0/s    ",
        "  latency  p50 12.3 ms  p99 1.50 s so far  5 in flight",
    ]


def test_it_does_not_grow_with_the_load() -> None:
    picture = LoadPicture("http://h/")
    for look in range(1, 500):
        lines = picture.lines(Progress(look / 2, 10, look * 50, look * 50, 0, 0, 0, 0))
    assert max(len(line) for line, _ in lines) < 80
