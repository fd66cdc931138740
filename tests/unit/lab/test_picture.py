"""Plots and pages as text: whole, self-contained, and true to their figures."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.lab.picture import POINTS_MAX, bar_plot, line_plot, page, table, thinned, ticks

RISING = [(float(second), float(second)) for second in range(11)]


def polylines(figure: str) -> list[list[tuple[float, float]]]:
    """The lines of a plot in pixels; the figure must be well-formed."""
    found = ElementTree.fromstring(figure).iter("polyline")
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", line.attrib["points"])] for line in found
    ]


def test_a_line_goes_where_its_points_are() -> None:
    (line,) = polylines(line_plot("Rising", [("goodput", RISING)], "s", "per s"))
    assert len(line) == 11
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    # Paper counts y from the top.
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
    gaps = [later[1] - earlier[1] for earlier, later in pairwise(line)]
    assert max(gaps) - min(gaps) < 0.3


def test_what_was_not_measured_is_a_gap() -> None:
    points = [*RISING[:4], (4.0, math.nan), *RISING[5:]]
    assert [len(line) for line in polylines(line_plot("Gap", [("a", points)], "s", "y"))] == [4, 6]
    assert [len(line) for line in polylines(line_plot("Log", [("a", RISING)], "s", "y", y_log=True))] == [10]


def test_each_power_of_ten_is_as_high_as_the_other_on_a_log_axis() -> None:
    (line,) = polylines(
        line_plot("Log", [("p99", [(0, 1.0), (1, 10.0), (2, 100.0), (3, 1000.0)])], "s", "ms", y_log=True)
    )
    heights = [y for _, y in line]
    assert heights[0] - heights[1] == pytest.approx(heights[2] - heights[3], abs=0.2)


def test_an_outcome_has_one_colour_and_others_get_what_is_left() -> None:
    figure = line_plot("Colours", [("x", RISING), ("failed", RISING), ("y", RISING)], "s", "y")
    classes = re.findall(r'<polyline class="line (s\d)"', figure)
    assert classes[1] == "s4"
    assert len(set(classes)) == 3
    assert 'class="line s4"' in line_plot("Alone", [("failed", RISING)], "s", "y")


def test_marks_are_told_and_belong_to_the_picture() -> None:
    figure = line_plot("Marks", [("a", RISING)], "s", "y", marks=[(20.0, "edge <killed>"), (3.0, "scaled")])
    assert "edge &lt;killed&gt;" in figure
    assert max(x for line in polylines(figure) for x, _ in line) < 450  # the line ends at half of the time


@pytest.mark.parametrize("points", [[], [(0.0, math.nan)], [(0.0, 0.0)], [(5.0, 7.0)], [(0.0, -3.0), (1.0, 3.0)]])
def test_odd_figures_give_a_picture_all_the_same(points: list[tuple[float, float]]) -> None:
    for log in (False, True):
        ElementTree.fromstring(line_plot("Odd", [("a", points), ("b", [])], "s", "y", marks=[(0.0, "now")], y_log=log))
    ElementTree.fromstring(bar_plot("Odd", [(str(x), y) for x, y in points], "y"))


def test_bars_stand_for_their_values() -> None:
    heights = [
        float(bar.attrib["height"])
        for bar in ElementTree.fromstring(bar_plot("Bars", [("a & b", 10), ("c", 5), ("d", 0)], "y")).iter("rect")
    ]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    assert heights[2] == 0


def test_a_page_needs_nothing_from_elsewhere() -> None:
    whole = page("A <b>", [("One & two", line_plot("P", [("a", RISING)], "s", "y")), ("", table(["x"], [["<i>"]]))])
    assert "A &lt;b&gt;" in whole
    assert "One &amp; two" in whole
    assert "&lt;i&gt;" in whole
    assert not re.search(r"https?:|<script|src=|href=|@import|url\(", whole)
    assert "prefers-color-scheme: dark" in whole


def test_a_long_line_keeps_its_peaks() -> None:
    points = [(float(x), 1000.0 if x == 4321 else x % 7.0) for x in range(20_000)]
    kept = thinned(points)
    assert len(kept) <= POINTS_MAX + 2
    assert (4321.0, 1000.0) in kept
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_span_what_they_are_for_and_are_few(low: float, span: float) -> None:
    found = ticks(low, low + span)
    slack = span * 1e-6
    assert found[0] <= low + slack
    assert found[-1] >= low + span - slack
    assert found == sorted(set(found))
    assert 2 <= len(found) <= 8
