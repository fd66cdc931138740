"""Draws the scenarios for the docs: `make docs` runs this, and a test checks that the pictures are those of today."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from overload_scenarios import SCENARIOS, Scenario, played
from overload_world import World

from headway.lab.picture import line_plot

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "overload"
EVERY_S = 0.5
STYLE = (
    "<style>text{font:12px sans-serif;fill:#5b6570}.grid{stroke:#e3e7eb}.axis{stroke:#5b6570}"
    ".line{fill:none;stroke-width:1.8}.mark{stroke:#b0b8c0;stroke-dasharray:3 3}.s2{stroke:#c77700}.s3{stroke:#1f6fd6}"
    ".point{fill:transparent}</style>"
)
SHOWN = (
    "tenfold",
    "constant-gradient",
    "constant-timeout",
    "faster-again",
    "fast-errors",
    "slow-and-quick",
    "cold",
    "near-capacity",
    "oscillating",
    "computes-longer",
    "waits-longer",
    "hot-rows",
    "burst",
    "silence",
    "beyond-slo",
    "memory",
)


def _svg(scenario: Scenario, world: World) -> str:
    every_s = max(EVERY_S, scenario.end_s / 60)
    steps = [number * every_s for number in range(int(scenario.end_s / every_s))]
    goodput = [(at_s, world.goodput(at_s, at_s + every_s)) for at_s in steps]
    limit = [(at_s, sum(found) / len(found)) for at_s in steps if (found := world.limits(at_s, at_s + every_s))]
    series = [("answered in time, per second", goodput), ("limit, requests at once", limit)]
    return _alone(line_plot(scenario.title, series, "seconds", "", scenario.marks))


def _alone(figure: str) -> str:
    """The drawing of a report's figure as a picture of its own, which brings its colours along."""
    start = figure.index("<svg ") + len("<svg ")
    body = figure[start : figure.index("</svg>") + len("</svg>")]
    opening, inner = body.split(">", 1)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {opening}>{STYLE}{inner}'


@cache
def pictures() -> tuple[tuple[str, str], ...]:
    """Name and SVG text of each."""
    return tuple((name, _svg(SCENARIOS[name], played(name)) + "\n") for name in SHOWN)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for stem, text in pictures():
        (FOLDER / f"{stem}.svg").write_text(text)
        print(FOLDER / f"{stem}.svg")
