"""The report of a load as one HTML file: what was offered and what came of it, second by second. Pure.

Sums hide what matters most about a system under load: when it began to refuse, how long a spike was felt, whether a
limit moved before or after the latency did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headway.lab.outcome import LoadResult, Second
from headway.lab.picture import Mark, Point, Series, code, line_plot, page, paragraph, table
from headway.lab.report import headings, ms, own_words, row, verdict
from headway.lab.watched import ReplicaSample, Sample

# More names than this cannot be told apart by colour, or read above a plot.
_LINES_MAX = 7
_MARKS_MAX = 12
_X = "seconds since the beginning"


@dataclass(frozen=True, slots=True)
class Context:
    """What a reader needs to know beside the figures."""

    url: str
    command: str  # makes the same load again
    made_at: str  # date and time, as people write them
    slo_s: float | None = None
    samples: tuple[Sample, ...] = ()


def report_page(result: LoadResult, context: Context) -> str:
    """The whole file."""
    words = [verdict(result)] + ([said] if (said := own_words(result)) else [])
    marks = _piece_marks(result)
    sections = [
        ("", paragraph(f"{context.made_at}. {' '.join(words)}") + _figures(result)),
        ("Requests over time", _requests(result, marks)),
        ("Latency over time", _latency(result, marks, context.slo_s)),
        ("Refused", _refused(result, marks)),
    ]
    if context.samples:
        sections.append(("Inside the system", _inside(context.samples, marks)))
    for heading, name, parts in (("Pieces", "piece", result.pieces), ("Requests by kind", "request", result.requests)):
        if parts:
            sections.append((heading, table(headings(name), [row(part) for part in parts])))
    sections.append(("The same again", code(context.command)))
    return page(f"Load of {context.url}", sections)


def _figures(result: LoadResult) -> str:
    latency, refused, generator = result.latency_ms, result.refused_ms, result.generator
    rows = [
        ("offered", f"{result.offered:,}", f"in {result.duration_s:.3g} s"),
        ("goodput", f"{result.ok:,}", f"{result.goodput_per_s:,.1f}/s"),
        ("late", f"{result.late:,}", "answered after the SLO"),
        ("refused", f"{result.refused:,}", f"p50 {ms(refused['p50'])}, p99 {ms(refused['p99'])}"),
        ("failed", f"{result.failed:,}", ", ".join(f"{why}: {count:,}" for why, count in result.failures.items())),
        ("latency", f"p50 {ms(latency['p50'])}", ", ".join(f"{n} {ms(latency[n])}" for n in ("p90", "p99", "max"))),
        ("statuses", "", ", ".join(f"{status}: {count:,}" for status, count in result.statuses.items())),
        ("generator", f"{generator.cpu_share * 100:.0f} % of a core", f"sent {generator.made_per_s:,.1f}/s"),
    ]
    return table(("", "", ""), rows)


def _piece_marks(result: LoadResult) -> list[Mark]:
    return [(part.start_s, part.name) for part in result.pieces] if len(result.pieces) <= _MARKS_MAX else []


def _per_second(result: LoadResult, value: Callable[[Second], float | None]) -> list[Point]:
    """A point in the middle of each second."""
    found = ((second.second + 0.5, value(second)) for second in result.timeline)
    return [(x, math.nan if y is None else y) for x, y in found]


def _requests(result: LoadResult, marks: Sequence[Mark]) -> str:
    def rate(count: Callable[[Second], int]) -> list[Point]:
        # A load that ends within a second: its last figures are of less than one. Too short a rest is left out.
        def per_second(second: Second) -> float | None:
            lasted_s = min(1.0, result.duration_s - second.second)
            return count(second) / lasted_s if lasted_s >= 0.2 or (second.second == 0 and lasted_s > 0) else None

        return _per_second(result, per_second)

    series: list[Series] = [("offered", rate(lambda s: s.offered)), ("goodput", rate(lambda s: s.ok))]
    for name, count, total in (
        ("late", lambda s: s.late, result.late),
        ("refused", lambda s: s.refused, result.refused),
        ("failed", lambda s: s.failed, result.failed),
    ):
        if total:
            series.append((name, rate(count)))
    return line_plot("Requests, by the second in which they were due", series, _X, "requests per second", marks)


def _latency(result: LoadResult, marks: Sequence[Mark], slo_s: float | None) -> str:
    series: list[Series] = [
        ("p50", _per_second(result, lambda s: s.p50_ms)),
        ("p90", _per_second(result, lambda s: s.p90_ms)),
        ("p99", _per_second(result, lambda s: s.p99_ms)),
    ]
    if slo_s is not None and result.timeline:
        series.append(("SLO", [(0.0, slo_s * 1000), (float(len(result.timeline)), slo_s * 1000)]))
    title = "Latency from the intended start to the last byte, of requests due in that second"
    return line_plot(title, series, _X, "milliseconds", marks, y_log=True)


def _refused(result: LoadResult, marks: Sequence[Mark]) -> str:
    if not result.refused:
        return paragraph("Nothing was refused.")
    points = _per_second(result, lambda s: s.refused / s.offered * 100 if s.offered else None)
    return line_plot("Share of the requests that were refused", [("refused", points)], _X, "percent", marks)


def _inside(samples: Sequence[Sample], marks: Sequence[Mark]) -> str:
    names = sorted({name for sample in samples for name in sample.replicas})
    each = len(names) <= _LINES_MAX
    if not each:
        names = sorted({_service(name) for name in names})[:_LINES_MAX]

    def values(name: str, value: Callable[[ReplicaSample], int | None]) -> list[Point]:
        points = []
        for sample in samples:
            mine = [r for key, r in sample.replicas.items() if key == name or (not each and _service(key) == name)]
            known = [found for replica in mine if (found := value(replica)) is not None]
            points.append((sample.at_s, float(sum(known)) if known else math.nan))
        return points

    # One kind of line a plot: with a limit and a use for each replica nobody would find the pair that belongs together.
    whose = "of each replica" if each else "of all replicas of a service together"
    plots = [
        line_plot(f"Limit {whose}", [(n, values(n, lambda r: r.limit)) for n in names], _X, "requests", marks),
        line_plot(f"In flight {whose}", [(n, values(n, lambda r: r.in_flight)) for n in names], _X, "requests", marks),
    ]
    if any(sample.queued is not None for sample in samples):
        queue = [(sample.at_s, math.nan if sample.queued is None else float(sample.queued)) for sample in samples]
        plots.append(line_plot("Waiting at the edge", [("queued", queue)], _X, "requests", marks))
    return "".join(plots)


def _service(name: str) -> str:
    return name.rpartition(".")[0] or name
