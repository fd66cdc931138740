"""A drill as one HTML page: the sentences first, then plots, then every figure. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from headway.lab.drill.findings import Drill, Recovery, Step
from headway.lab.drill.table import HEADINGS, SIZE_HEADINGS, size_rows, step_rows
from headway.lab.drill.usl import Forecast
from headway.lab.drill.verdict import verdicts
from headway.lab.picture import Series, bar_plot, code, line_plot, page, paragraph, table
from headway.model.units import format_duration

_CURVE_POINTS = 40


def paper(drill: Drill, command: str) -> str:
    """The page; `command` is what reproduces it."""
    subject = drill.subject
    about = (
        f"{subject.url}, service {subject.service}, replicas: {subject.replicas}, cores: {subject.cores}. In time "
        f"means within {format_duration(subject.slo_s)}; a client gives up after {format_duration(subject.deadline_s)}."
    )
    sections = [
        ("", "\n".join(paragraph(sentence) for sentence in verdicts(drill))),
        ("Too much", _overload(drill)),
    ]
    if drill.recovery is not None:
        sections.append(("After a burst", _recovery(drill)))
    if drill.sizes:
        sections.append(("More cores", _sizes(drill)))
    notes = "\n".join(paragraph(text) for text in (about, *drill.notes))
    sections += [("How it was measured", notes), ("Again", code(command))]
    return page(f"{subject.system}: what it does when it is too much", sections)


def _overload(drill: Drill) -> str:
    parts = [_steps_plot("In time", drill)]
    parts.append(
        line_plot(
            "Time to answer, of those that were served",
            [("p50", _points(drill.steps, "p50_ms")), ("p99", _points(drill.steps, "p99_ms"))],
            "times the capacity",
            "ms",
            y_log=True,
        )
    )
    parts.append(table(HEADINGS, _whole_rows(step_rows(drill.steps, drill.capacity.per_s))))
    if drill.bare is not None:
        parts += [
            paragraph(f"Bare, by {drill.bare.server}:"),
            table(HEADINGS, _whole_rows(step_rows(drill.bare.steps, drill.capacity.per_s))),
        ]
    return "\n".join(parts)


def _steps_plot(title: str, drill: Drill) -> str:
    series: list[Series] = [("goodput", _points(drill.steps, "goodput_per_s"))]
    if drill.bare is not None:
        series.append((drill.bare.server, _points(drill.bare.steps, "goodput_per_s")))
    marks = [(1.0, f"capacity {drill.capacity.per_s:,.0f}/s")]
    return line_plot(title, series, "times the capacity", "per second", marks)


def _points(steps: Sequence[Step], name: str) -> list[tuple[float, float]]:
    found = [(step.times, getattr(step, name)) for step in steps if not step.void]
    return [(x, y) for x, y in found if y is not None]


def _whole_rows(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [(*row, *[""] * (len(HEADINGS) - len(row))) for row in rows]


def _recovery(drill: Drill) -> str:
    def line(found: Recovery) -> list[tuple[float, float]]:
        return [(entry.start_s, 100.0 * entry.ok / entry.offered) for entry in found.slices if entry.offered]

    series: list[Series] = []
    marks = []
    if drill.recovery is not None:
        series.append(("goodput", line(drill.recovery)))
        if drill.recovery.recovered_s is not None:
            marks.append((drill.recovery.recovered_s, "recovered"))
    if drill.bare is not None and drill.bare.recovery is not None:
        series.append((drill.bare.server, line(drill.bare.recovery)))
    return line_plot("Answered in time after the burst", series, "seconds after the burst", "per cent", marks)


def _sizes(drill: Drill) -> str:
    bars = [(f"{size.cores:g} cores", sum(size.per_s) / len(size.per_s)) for size in drill.sizes if size.per_s]
    parts = [bar_plot("In time by cores", bars, "per second")]
    if isinstance(drill.ceiling, Forecast):
        curve, end = drill.ceiling.curve, drill.ceiling.size
        points = [(end * n / _CURVE_POINTS, curve.at(end * n / _CURVE_POINTS)) for n in range(1, _CURVE_POINTS + 1)]
        measured = [(size.cores, sum(size.per_s) / len(size.per_s)) for size in drill.sizes if size.per_s]
        span = [(end, drill.ceiling.low_per_s), (end, drill.ceiling.high_per_s)]
        parts.append(
            line_plot(
                "As the scalability law carries it on",
                [("law", points), ("measured", measured), ("95 of 100", span)],
                "cores",
                "per second",
            )
        )
    parts.append(table(SIZE_HEADINGS, size_rows(drill)))
    return "\n".join(parts)
