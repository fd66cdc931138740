"""Draws what was measured: plots as SVG text, and a page that holds them. Pure: figures in, text out.

A report is read weeks later on another machine, perhaps without a network. So a page is one file, without scripts or
fonts from elsewhere; it is readable in light and dark, on paper, and by people who do not see all colours.

    page("Load of shop", [("Requests", line_plot("Answers", [("goodput", points)], "seconds", "per second"))])

A series named like an outcome (goodput, late, refused, failed, offered) has the same colour in every plot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

Point = tuple[float, float]
Series = tuple[str, Sequence[Point]]  # a point whose y is not finite is a gap in the line
Mark = tuple[float, str]  # something that happened at x
Bar = tuple[str, float]

WIDTH, HEIGHT = 760, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 40
# A line of this width shows no more; above it the lowest and highest of neighbours stand for them.
POINTS_MAX = 600
# Each point tells its figures under the mouse while there are not too many to carry.
_TOLD_MAX = 240
_MARK_ROWS, _MARK_ROW_PX, _LETTER_PX = 3, 13, 6.2

_SLOTS = {"offered": 0, "SLO": 0, "goodput": 1, "ok": 1, "late": 2, "refused": 3, "failed": 4}
_FREE_SLOTS = (3, 2, 5, 1, 6, 4, 7)  # neighbours differ in brightness, too
_DASHED_SLOT = 0

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #5b6570; --grid: #e3e7eb; --box: #f5f7f9;
  --s0: #7a828b; --s1: #1a7f4b; --s2: #c77700; --s3: #1f6fd6; --s4: #c9252d; --s5: #8547c4;
  --s6: #0b8a94; --s7: #8a5a2b }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --ink: #e4e8ec; --soft: #9aa5b1; --grid: #2b323a;
  --box: #1c2228; --s0: #9aa5b1; --s1: #3fbf7f; --s2: #f0a63a; --s3: #6aa9ff; --s4: #ff6b6b; --s5: #bd8cf0;
  --s6: #4cc9d3; --s7: #d0a06a } }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 800px;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2.2rem } figure { margin: 1.2rem 0 }
figcaption { font-weight: 600 } .legend { color: var(--soft); font-size: 13px } .legend span { margin-right: 1.1em }
.legend i { display: inline-block; width: 1.4em; border-top: 3px solid; margin-right: .4em; vertical-align: middle }
svg { width: 100%; height: auto; display: block } svg text { font: 11px system-ui, sans-serif; fill: var(--soft) }
.grid { stroke: var(--grid) } .axis { stroke: var(--soft) } .line { fill: none; stroke-width: 1.8 }
.mark { stroke: var(--ink); stroke-dasharray: 2 3 } svg text.told { fill: var(--ink) } .point { fill: transparent }
table { border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid var(--grid) }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
pre { background: var(--box); padding: .7rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere }
@media print { body { max-width: none; margin: 0 } figure { break-inside: avoid } }
""" + "".join(f".s{n} {{ stroke: var(--s{n}); color: var(--s{n}) }} .f{n} {{ fill: var(--s{n}) }}\n" for n in range(8))


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole HTML document; a section is a heading (plain text, may be empty) and its content (HTML)."""
    parts = [f"<h2>{escape(heading)}</h2>\n{content}" if heading else content for heading, content in sections]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    """A command line, or what a program printed."""
    return f"<pre>{escape(text)}</pre>"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts; the first column names the row, the others stand right."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ("", *[' class="number"'] * (len(cells) - 1))
        return "<tr>" + "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(headings, 'th')}</thead>\n<tbody>{body}</tbody></table>"


def line_plot(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    *,
    y_log: bool = False,
) -> str:
    """Lines over a common x. `y_log` is for what spans powers of ten; values of 0 and below are gaps then."""
    lines = [(name, thinned(points)) for name, points in series]
    runs = [(name, [run for run in _runs(points, y_log) if run]) for name, points in lines]
    shown = [point for _, pieces in runs for run in pieces for point in run]
    if not shown:
        return _figure(title, "", paragraph("Nothing was measured."))
    xs = [x for x, _ in shown] + [x for x, _ in marks]
    ys = [y for _, y in shown]
    x_axis = _Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT)
    top = _TOP + _MARK_ROW_PX * min(len(marks), _MARK_ROWS)
    y_axis = _log_axis(min(ys), max(ys), top) if y_log else _Axis(min(0.0, *ys), max(ys), HEIGHT - _BOTTOM, top, True)
    slots = _slots([name for name, _ in series])
    told = sum(len(run) for _, pieces in runs for run in pieces) <= _TOLD_MAX
    parts = [_frame(x_axis, y_axis, x_label, y_label), _marks(marks, x_axis, top)]
    # What is asked for is dashed and lies above what came of it: where they are the same, both are seen.
    for (name, pieces), slot in sorted(zip(runs, slots, strict=True), key=lambda drawn: drawn[1] == _DASHED_SLOT):
        parts += [_line(run, x_axis, y_axis, slot) for run in pieces]
        if told:
            parts += [_told(name, point, x_axis, y_axis) for run in pieces for point in run]
    return _figure(title, _legend([name for name, _ in series], slots), _svg(title, parts))


def bar_plot(title: str, bars: Sequence[Bar], y_label: str) -> str:
    """A bar for each name."""
    bars = [(name, value) for name, value in bars if math.isfinite(value)]
    if not bars:
        return _figure(title, "", paragraph("Nothing was measured."))
    y_axis = _Axis(min(0.0, *(v for _, v in bars)), max(v for _, v in bars), HEIGHT - _BOTTOM, _TOP, True)
    step = (WIDTH - _LEFT - _RIGHT) / len(bars)
    zero = y_axis.at(0.0)
    parts = [_frame(None, y_axis, "", y_label)]
    for number, ((name, value), slot) in enumerate(zip(bars, _slots([name for name, _ in bars]), strict=True)):
        left, width, end = _LEFT + step * (number + 0.15), step * 0.7, y_axis.at(value)
        letters = max(3, int(step / _LETTER_PX))
        short = name if len(name) <= letters else name[: letters - 1] + "…"
        parts.append(
            f'<rect class="f{slot}" x="{left:.1f}" y="{min(end, zero):.1f}" width="{width:.1f}" '
            f'height="{abs(zero - end):.1f}"><title>{escape(name)}: {figure(value)}</title></rect>'
            f'<text class="told" x="{left + width / 2:.1f}" y="{min(end, zero) - 3:.1f}" text-anchor="middle">'
            f"{figure(value)}</text>"
            f'<text x="{left + width / 2:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(short)}</text>'
        )
    return _figure(title, "", _svg(title, parts))


def figure(value: float) -> str:
    """A number as an axis shows it: 0.25, 7, 1,200, 3.4M."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def thinned(points: Sequence[Point], points_max: int = POINTS_MAX) -> list[Point]:
    """At most about that many points: of neighbours the lowest and the highest stay, so that no peak is lost."""
    if len(points) <= points_max:
        return list(points)
    size = math.ceil(2 * len(points) / points_max)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        group = [point for point in points[start : start + size] if math.isfinite(point[1])]
        if not group:
            kept.append((points[start][0], math.nan))
            continue
        kept += sorted({min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1])})
    return kept


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) that span low to high."""
    if not high > low:
        high = low + 1.0
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


class _Axis:
    """Where a value stands on the paper, and the values that are written beside it."""

    def __init__(self, low: float, high: float, start_px: float, end_px: float, to_ticks: bool = False) -> None:
        self._log = False
        self.ticks = ticks(low, high, 4 if to_ticks else 8)
        # Values end at a written one; time ends where the measuring did.
        self._low, self._high = (self.ticks[0], self.ticks[-1]) if to_ticks else (low, high if high > low else low + 1)
        self.ticks = [tick for tick in self.ticks if self._low - 1e-9 <= tick <= self._high + 1e-9]
        self._start_px, self._span_px = start_px, end_px - start_px

    def as_log(self) -> _Axis:
        """The same, read as powers of ten."""
        self._log = True
        return self

    def at(self, value: float) -> float:
        place = math.log10(value) if self._log else value
        return self._start_px + (place - self._low) / (self._high - self._low) * self._span_px

    @property
    def labels(self) -> list[tuple[float, str]]:
        """Places in pixels with the values to write there."""
        values = [10.0**tick if self._log else tick for tick in self.ticks]
        return [(self.at(value), figure(value)) for value in values]


def _log_axis(low: float, high: float, top: float) -> _Axis:
    """Whole powers of ten around the values."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    axis = _Axis(first, max(last, first + 1), HEIGHT - _BOTTOM, top, True).as_log()
    axis.ticks = [tick for tick in axis.ticks if tick == round(tick)]
    return axis


def _runs(points: Sequence[Point], y_log: bool) -> list[list[Point]]:
    def is_drawn(point: Point) -> bool:
        return math.isfinite(point[0]) and math.isfinite(point[1]) and (point[1] > 0 or not y_log)

    return [list(group) for drawn, group in groupby(points, is_drawn) if drawn]


def _slots(names: Sequence[str]) -> list[int]:
    """A colour for each name: its own, or the next that nobody has."""
    named = {_SLOTS[name] for name in names if name in _SLOTS}
    free = [slot for slot in _FREE_SLOTS if slot not in named] or list(_FREE_SLOTS)
    others = [name for name in names if name not in _SLOTS]
    return [_SLOTS[name] if name in _SLOTS else free[others.index(name) % len(free)] for name in names]


def _frame(x_axis: _Axis | None, y_axis: _Axis, x_label: str, y_label: str) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for y, text in y_axis.labels:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for x, text in x_axis.labels if x_axis else []:
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{right}" y="{HEIGHT - 6}" text-anchor="end">{escape(x_label)}</text>')
    middle = (bottom + _TOP) / 2
    parts.append(
        f'<text x="12" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 12 {middle:.1f})">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _marks(marks: Sequence[Mark], x_axis: _Axis, top: float) -> str:
    """Upright lines with their texts in up to three rows; a text goes to the row with the most room to its left."""
    ends = [0.0] * min(_MARK_ROWS, max(1, len(marks)))
    parts = []
    for x, text in sorted(marks):
        at, width = x_axis.at(x), len(text) * _LETTER_PX
        row = next((number for number, end in enumerate(ends) if end < at), ends.index(min(ends)))
        y = _TOP + _MARK_ROW_PX * row + 6
        flipped = at + width > WIDTH
        ends[row] = at + (0 if flipped else width) + 8
        anchor = f'x="{at - 4:.1f}" text-anchor="end"' if flipped else f'x="{at + 4:.1f}"'
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 8:.1f}" y2="{HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text class="told" {anchor} y="{y:.1f}">{escape(text)}</text>')
    return "".join(parts)


def _line(run: Sequence[Point], x_axis: _Axis, y_axis: _Axis, slot: int) -> str:
    places = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in run)
    if len(run) == 1:
        x, y = places.split(",")
        return f'<circle class="f{slot}" cx="{x}" cy="{y}" r="2.5"/>'
    dashes = ' stroke-dasharray="5 3"' if slot == _DASHED_SLOT else ""
    return f'<polyline class="line s{slot}"{dashes} points="{places}"/>'


def _told(name: str, point: Point, x_axis: _Axis, y_axis: _Axis) -> str:
    x, y = point
    return (
        f'<circle class="point" cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="6">'
        f"<title>{escape(name)} at {figure(x)}: {figure(y)}</title></circle>"
    )


def _legend(names: Sequence[str], slots: Sequence[int]) -> str:
    entries = "".join(
        f'<span><i class="s{slot}"></i>{escape(name)}</span>' for name, slot in zip(names, slots, strict=True)
    )
    return f'<div class="legend">{entries}</div>'


def _svg(title: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _figure(title: str, legend: str, content: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{legend}{content}</figure>"
