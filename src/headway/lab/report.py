"""Says the result of a load to a person: a few aligned lines, and one sentence on what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headway.lab.generator import OWN_FAULTS, TOO_SLOW
from headway.lab.outcome import LoadResult, Part

# A system is called to hold from here on: one late answer in a thousand is worth a number, not another word.
HOLDS_SHARE = 0.99
_A_LITTLE_SHARE = 0.9


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
        rows.append(("refused", f"{result.refused:,}", f"p50 {ms(refused['p50'])}  p99 {ms(refused['p99'])}"))
    if result.failed:
        rows.append(("failed", f"{result.failed:,}", _counts(result.failures)))
    tail = "  ".join(f"{name} {ms(latency[name])}" for name in ("p90", "p99", "max"))
    rows.append(("latency", f"p50 {ms(latency['p50'])}", tail))
    width = max(len(value) for _, value, _ in rows)
    lines = [f"  {name:<9} {value:<{width}}  {words}".rstrip() for name, value, words in rows]
    if result.statuses:
        lines.append(f"  {'statuses':<9} {_counts(result.statuses)}")
    for heading, parts in (("piece", result.pieces), ("request", result.requests)):
        if parts:
            lines += ["", *_aligned([headings(heading), *map(row, parts)])]
    lines += ["", f"  {verdict(result)}"]
    if (words := own_words(result)) is not None:
        lines.append(f"  {words}")
    return "\n".join(lines) + "\n"


def headings(what: str) -> tuple[str, ...]:
    """The columns of `row`."""
    return (what, "offered", "goodput", "late", "refused", "failed", "p50", "p99")


def row(part: Part) -> tuple[str, ...]:
    """A piece of the schedule, or a kind of request, as texts."""
    counts = (f"{count:,}" for count in (part.late, part.refused, part.failed))
    return (
        part.name,
        f"{part.offered:,}",
        f"{part.goodput_per_s:,.1f}/s",
        *counts,
        ms(part.latency_ms["p50"]),
        ms(part.latency_ms["p99"]),
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *figures in rows:
        cells = "".join(f"  {figure:>{width}}" for figure, width in zip(figures, widths[1:], strict=True))
        lines.append(f"  {name:<{widths[0]}}{cells}")
    return lines


def verdict(result: LoadResult) -> str:
    """One sentence: did the system hold?"""
    offered, answered_share = result.offered, result.ok / result.offered if result.offered else 0.0
    if offered == 0:
        return "Nothing was offered: the load was too short for its rate."
    if result.ok == offered:
        return "It holds: every request was answered in time."
    if result.refused == offered:
        return "It refuses everything: no request was answered."
    if result.ok == 0 and result.failed:
        return "It does not hold: no request was answered in time."
    if result.failed:
        words = "It nearly holds" if answered_share >= HOLDS_SHARE else "It does not hold"
        return f"{words}: {result.failed:,} of {offered:,} requests failed."
    if result.refused and (result.ok + result.refused) / offered >= HOLDS_SHARE and answered_share < HOLDS_SHARE:
        late = f"{result.late:,} late, " if result.late else ""
        return f"It holds by refusing: {_share(result)} answered in time, {late}the rest told to come back, none lost."
    if answered_share >= HOLDS_SHARE:
        rest = [f"{count:,} {word}" for count, word in ((result.late, "late"), (result.refused, "refused")) if count]
        return f"It holds: {_share(result)} answered in time, {' and '.join(rest)}, none failed."
    words = "It is a little too slow for this" if answered_share >= _A_LITTLE_SHARE else "It is too slow for this"
    return f"{words}: {_share(result)} answered in time, none failed."


def own_words(result: LoadResult) -> str | None:
    """What the generator has to say of itself; None when its own part is not worth a word."""
    generator = result.generator
    if generator.cause is None:
        return None
    if not generator.bottleneck:
        return (
            f"For a moment the load generator was late itself ({_why(result)}): "
            f"{_percent(generator.sent_late_share)} of the requests left more than 10 ms after they were due, "
            "which is part of their latency."
        )
    made = f"it made {generator.made_per_s:,.0f} requests a second"
    asked = result.offered / result.duration_s if result.duration_s > 0 else 0.0
    if asked > generator.made_per_s * 1.01:
        made += f" of {asked:,.0f}"
    remedy = {
        "own core used up": "lower the rate, or share it between several generators",
        "no core to run on": "give it a core of its own, or run it on another machine",
        "ports or descriptors": "use --connections keep, shorten --deadline, or raise ip_local_port_range or ulimit -n",
        "held up": "try again, and look at what else this machine does",
    }[generator.cause]
    return (
        f"Careful: the load generator itself was the bottleneck ({_why(result)}); {made}, "
        f"{_percent(generator.sent_late_share)} of them more than 10 ms late; {remedy}."
    )


def _why(result: LoadResult) -> str:
    generator = result.generator
    match generator.cause:
        case "own core used up":
            return f"it used up its own core: {_percent(generator.cpu_share)}"
        case "no core to run on":
            return f"others had its core: it ran {_percent(generator.cpu_share)} of the time " + (
                f"and waited {_percent(generator.waited_share)} for one"
            )
        case "ports or descriptors":
            lacked = (name for name in result.failures if name in OWN_FAULTS and name != TOO_SLOW)
            return ", ".join(f"{name}: {result.failures[name]:,}" for name in lacked)
    return f"something held it up: 1 request in 100 left {ms(generator.send_lag_ms_p99)} late or more"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %" if share >= 0.1 or share == 0 else f"{max(share * 100, 0.1):.1f} %"


def _share(result: LoadResult) -> str:
    share = result.ok / result.offered if result.offered else 0.0
    # 99.96 % must not read as all of them.
    return "100 %" if result.ok == result.offered else f"{min(share * 100, 99.9):.1f} %"


def _counts(counts: Mapping[str, int]) -> str:
    return "  ".join(f"{name}: {count:,}" for name, count in counts.items())


def ms(value: float | None) -> str:
    """A latency as the report shows it; a dash for none."""
    if value is None:
        return "–"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.1f} ms"
