"""A drill as a terminal shows it: what it is about, a calm table, and what it means. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from headway.lab.drill.findings import Drill, Step
from headway.lab.drill.usl import Forecast
from headway.lab.drill.verdict import share, verdicts
from headway.model.units import format_duration

HEADINGS = ("load", "offered", "in time", "of capacity", "p50", "p99", "refused", "p99 of refusal", "failed")
# The same for a terminal; 1x is the capacity.
_SHORT = ("load", "offered", "in time", "of 1x", "p50", "p99", "refused", "their p99", "failed")
SIZE_HEADINGS = ("cores", "replicas", "in time", "from", "to")
_WIDTH = 80
_SLO_FROM = {"option": "--slo", "declared": "declared", "default": "nothing is declared"}


def render(drill: Drill) -> str:
    """The whole page as text."""
    subject = drill.subject
    lines = [
        f"{subject.system}: what it does when it is too much",
        "",
        f"  {subject.url}   service {subject.service}, {_replicas(subject.replicas)}, {subject.cores} cores",
        f"  in time = within {format_duration(subject.slo_s)} ({_SLO_FROM[subject.slo_from]}); "
        f"a client gives up after {format_duration(subject.deadline_s)}",
    ]
    if drill.steps:
        lines += ["", *aligned((_SHORT, *step_rows(drill.steps, drill.capacity.per_s)))]
    if drill.bare is not None and drill.bare.steps:
        lines += ["", f"  bare, by {drill.bare.server}"]
        lines += aligned((_SHORT, *step_rows(drill.bare.steps, drill.capacity.per_s)))
    if drill.sizes:
        lines += ["", *aligned((SIZE_HEADINGS, *size_rows(drill)))]
    lines += ["", *(line for sentence in verdicts(drill) for line in _wrapped(sentence))]
    if drill.notes:
        lines += ["", *(line for note in drill.notes for line in _wrapped(f"note: {note}"))]
    return "\n".join(lines)


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def step_rows(steps: Sequence[Step], capacity_per_s: float) -> list[tuple[str, ...]]:
    """The cells of each step, below HEADINGS."""
    return [_cells(step, capacity_per_s) for step in steps]


def size_rows(drill: Drill) -> list[tuple[str, ...]]:
    """The cells of each size measured, and of the forecast, below SIZE_HEADINGS."""
    rows: list[tuple[str, ...]] = [
        (
            f"{size.cores:g}",
            str(size.replicas),
            f"{'≥ ' if size.is_lower_bound else ''}{sum(size.per_s) / len(size.per_s):,.0f}/s",
            f"{min(size.per_s):,.0f}/s",
            f"{max(size.per_s):,.0f}/s",
        )
        for size in drill.sizes
        if size.per_s
    ]
    if isinstance(drill.ceiling, Forecast):
        found = drill.ceiling
        expected = f"at most {found.high_per_s:,.0f}/s" if found.is_bound else f"about {found.per_s:,.0f}/s"
        told = (expected, "–" if found.is_bound else f"{found.low_per_s:,.0f}/s", f"{found.high_per_s:,.0f}/s")
        rows.append((f"{found.size:g}", "forecast", *told))
    return rows


def _cells(step: Step, capacity_per_s: float) -> tuple[str, ...]:
    name, offered = f"{step.times:g}x", f"{step.rate_per_s:,.0f}/s"
    if step.void:
        return (name, offered, f"void: {step.void}")
    part = share(step, capacity_per_s)
    return (
        name,
        offered,
        f"{'≥ ' if step.at_least else ''}{step.goodput_per_s:,.0f}/s",
        f"{part:.0%}" if part is not None else "–",
        _ms(step.p50_ms),
        _ms(step.p99_ms),
        _of(step.refused, step.offered),
        _ms(step.refused_p99_ms),
        _of(step.failed, step.offered),
    )


def _of(count: int, offered: int) -> str:
    if not count or not offered:
        return "0"
    percent = 100 * count / offered
    return f"{percent:.0f} %" if percent >= 1 else f"{percent:.2g} %"


def _ms(value: float | None) -> str:
    return "–" if value is None else format_duration(value / 1000)


def _replicas(count: int) -> str:
    return f"{count} replica{'s' if count != 1 else ''}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells under each other, to the right; a row that is shorter ends in a sentence, which widens no column."""
    count = len(rows[0])
    cells = [row if len(row) == count else row[:-1] for row in rows]
    widths = [max(len(row[column]) for row in cells if column < len(row)) for column in range(count)]
    lines = []
    for row, columns in zip(rows, cells, strict=True):
        parts = [text.rjust(width) for text, width in zip(columns, widths, strict=False)]
        lines.append("  " + "  ".join([*parts, *row[len(columns) :]]).rstrip())
    return lines
