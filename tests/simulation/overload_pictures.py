"""Draws the scenarios for the docs: `make docs` runs this, and a test checks that the pictures are those of today."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from pathlib import Path

from overload_scenarios import SCENARIOS, Scenario, played
from overload_world import World

from headway.lab.picture import HEIGHT, WIDTH, line_plot

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "overload"
POINTS = 100  # of each line
HIDDEN = (
    "cold-crowd",
    "fiftyfold",
    "robbed",
    "two-replicas",
    "lasting-timeout",
    "quick-oscillating",
    "from-beyond-slo",
)
SHOWN = tuple(name for name in SCENARIOS if name not in HIDDEN)
LEGEND_HEIGHT = 20
# A picture of its own brings its colours along; it cannot know those of the page, only what the reader's system likes.
STYLE = """svg{--ground:#fff;--soft:#5b6570;--grid:#e3e7eb;--a:#c77700;--b:#1a7f4b;--c:#1f6fd6}
@media (prefers-color-scheme:dark){
svg{--ground:#14181d;--soft:#9aa5b1;--grid:#2b323a;--a:#f0a63a;--b:#3fbf7f;--c:#6aa9ff}}
.ground{fill:var(--ground)}text{font:11px system-ui,sans-serif;fill:var(--soft)}.grid{stroke:var(--grid)}
.axis{stroke:var(--soft)}.mark{stroke:var(--soft);stroke-dasharray:2 3}.line{fill:none;stroke-width:1.8}
.s1{stroke:var(--b)}.s2{stroke:var(--a)}.s3{stroke:var(--c)}"""


def _svg(scenario: Scenario, world: World) -> str:
    every_s = scenario.end_s / POINTS
    steps = [number * every_s for number in range(POINTS)]
    limit = [(at_s, sum(found) / len(found)) for at_s in steps if (found := world.limits(at_s, at_s + every_s))]
    # Nothing is drawn at 1, the bottom of an axis of powers of ten.
    series = [
        ("answered per second", [(at_s, max(1.0, world.throughput(at_s, at_s + every_s))) for at_s in steps]),
        ("limit, requests at once", limit),
        ("goodput", [(at_s, max(1.0, world.goodput(at_s, at_s + every_s))) for at_s in steps]),
    ]
    figure = line_plot(scenario.title, series, "seconds", "", scenario.marks, y_log=True)
    return _alone(scenario.title, figure)


def _alone(title: str, figure: str) -> str:
    """The drawing of a report's figure as a picture of its own, with its legend and colours."""
    drawing = re.search(r"<svg [^>]*>(.*)</svg>", figure, re.DOTALL)
    assert drawing is not None
    legend, x = "", 64
    for colour, name in re.findall(r'<i class="(s\d)"></i>([^<]*)</span>', figure):
        legend += f'<path class="line {colour}" d="M{x} 13h22"/><text x="{x + 28}" y="17">{name}</text>'
        x += 60 + 6 * len(name)
    height = HEIGHT + LEGEND_HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style><rect class="ground" width="{WIDTH}" height="{height}"/>'
        f'{legend}<g transform="translate(0 {LEGEND_HEIGHT})">{drawing[1]}</g></svg>\n'
    )


@cache
def pictures() -> tuple[tuple[str, str], ...]:
    """Name and SVG text of each."""
    return tuple((name, _svg(SCENARIOS[name], played(name))) for name in SHOWN)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.svg"):
        path.unlink()
    for stem, text in pictures():
        (FOLDER / f"{stem}.svg").write_text(text)
    print(f"{FOLDER}: {len(SHOWN)} pictures")
