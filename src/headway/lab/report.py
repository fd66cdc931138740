"""Says the result of a load to a person: a few aligned lines, and one sentence on what they mean."""

from __future__ import annotations

from collections.abc import Mapping

from headway.lab.outcome import LoadResult


def render(result: LoadResult) -> str:
    """The whole report, lines without colour, ending in a newline."""
    latency, refused = result.latency_ms, result.refused_ms
    rows = [
        ("offered", f"{result.offered:,}", f"in {result.duration_s:.3g} s"),
        ("goodput", f"{result.goodput_per_s:,.1f}/s", f"{result.ok:,} answered in time ({_share(result)})"),
    ]
    if result.late:
        rows.append(("late", f"{result.late:,}", "answered after the SLO"))
    if result.refused:
        rows.append(("refused", f"{result.refused:,}", f"p50 {_ms(refused['p50'])}  p99 {_ms(refused['p99'])}"))
    if result.failed:
        rows.append(("failed", f"{result.failed:,}", _counts(result.failures)))
    tail = "  ".join(f"{name} {_ms(latency[name])}" for name in ("p90", "p99", "max"))
    rows.append(("latency", f"p50 {_ms(latency['p50'])}", tail))
    width = max(len(value) for _, value, _ in rows)
    lines = [f"  {name:<9} {value:<{width}}  {words}".rstrip() for name, value, words in rows]
    if result.statuses:
        lines.append(f"  {'statuses':<9} {_counts(result.statuses)}")
    lines += ["", f"  {verdict(result)}"]
    if result.generator.bottleneck:
        lines.append(f"  {_warning(result)}")
    return "\n".join(lines) + "\n"


def verdict(result: LoadResult) -> str:
    """One sentence: did the system hold?"""
    if result.offered == 0:
        return "Nothing was offered: the load was too short for its rate."
    if result.ok == result.offered:
        return "It holds: every request was answered in time."
    if result.refused == result.offered:
        return "It refuses everything: no request was answered."
    if result.ok + result.refused == result.offered:
        return f"It holds by refusing: {_share(result)} answered in time, the rest told to come back, none lost."
    if result.failed == 0:
        return f"It is too slow for this: {_share(result)} answered in time, none failed."
    if result.ok == 0:
        return "It does not hold: no request was answered in time."
    return f"It does not hold: {result.failed:,} of {result.offered:,} requests failed."


def _warning(result: LoadResult) -> str:
    generator = result.generator
    return (
        f"Careful: the load generator itself was the bottleneck ({generator.cpu_share * 100:.0f} % of a core, "
        f"1 request in 100 sent {_ms(generator.send_lag_ms_p99)} late or more); "
        "lower the rate or give it a core of its own."
    )


def _share(result: LoadResult) -> str:
    share = result.ok / result.offered if result.offered else 0.0
    # 99.96 % must not read as all of them.
    return "100 %" if result.ok == result.offered else f"{min(share * 100, 99.9):.1f} %"


def _counts(counts: Mapping[str, int]) -> str:
    return "  ".join(f"{name}: {count:,}" for name, count in counts.items())


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.1f} ms"
