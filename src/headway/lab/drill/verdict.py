"""What the figures of a drill mean, in sentences that somebody can act on. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from headway.lab.drill.findings import Bare, Death, Drill, Recovery, Size, Step
from headway.lab.drill.usl import Forecast, Unknown
from headway.model.units import format_duration

HELD = 0.9  # goodput at the highest rate, of the capacity
BENT = 0.5
REFUSED_FAST_MS = 50.0
BACK_AT_ONCE_S = 1.0


def verdicts(drill: Drill) -> tuple[str, ...]:
    """One sentence for each thing found, the most important first."""
    return tuple(_verdicts(drill))


def share(step: Step, capacity_per_s: float) -> float | None:
    """Goodput of the capacity; None where it says nothing."""
    return None if step.void or capacity_per_s <= 0 else step.goodput_per_s / capacity_per_s


def highest(steps: tuple[Step, ...]) -> Step | None:
    """The step with the most load that is a measurement."""
    return max((step for step in steps if not step.void and step.times > 1), key=lambda s: s.times, default=None)


def _verdicts(drill: Drill) -> Iterator[str]:
    slo = format_duration(drill.subject.slo_s)
    if drill.capacity.is_lower_bound:
        yield (
            f"It answers more than {drill.capacity.per_s:,.0f}/s within {slo}: the generator was the wall, not the "
            "app. Drill a slower path (--path), or load it from another machine."
        )
    else:
        yield f"It answers {drill.capacity.per_s:,.0f}/s within {slo}."
    if (step := highest(drill.steps)) is not None:
        yield _overload(step, drill.capacity.per_s)
        if step.refused and step.refused_p99_ms is not None:
            yield _refusals(step)
        if step.failed and step.failed > 0.01 * step.offered:
            yield (
                f"{step.failed / step.offered:.0%} of the requests failed at {step.times:g}x: neither an answer nor "
                "a refusal, within the time a client waits."
            )
    if drill.recovery is not None:
        yield _recovery(drill.recovery)
    if drill.death is not None:
        yield _death(drill.death)
    if drill.bare is not None:
        yield from _bare(drill.bare, drill)
    yield from _scaling(drill.sizes)
    if isinstance(drill.ceiling, Forecast):
        yield _ceiling(drill.ceiling)
    elif isinstance(drill.ceiling, Unknown) and drill.sizes:
        yield f"No ceiling: {drill.ceiling.reason}."


def _overload(step: Step, capacity_per_s: float) -> str:
    kept = step.goodput_per_s / capacity_per_s
    least = "at least " if step.at_least else ""
    if kept >= HELD:
        return f"It holds: at {step.times:g}x it still answers {least}{kept:.0%} of its capacity in time."
    if kept >= BENT:
        return f"It bends: at {step.times:g}x it answers {least}{kept:.0%} of its capacity in time."
    tail = " The generator was short of time as well." if step.at_least else ""
    return f"It breaks: at {step.times:g}x only {least}{kept:.0%} of its capacity is answered in time.{tail}"


def _refusals(step: Step) -> str:
    ms = step.refused_p99_ms or 0.0
    told = format_duration(ms / 1000)
    if ms <= REFUSED_FAST_MS:
        return f"Who is refused knows it within {told} (p99) and may come back later."
    return f"Who is refused waits up to {told} (p99) for that: refusing should take milliseconds."


def _recovery(found: Recovery) -> str:
    rate = f"{'at most' if found.generator_was_short else 'at'} {found.burst_per_s:,.0f}/s"
    burst = f"a burst of {format_duration(found.burst_s)} {rate}"
    if found.recovered_s is None:
        return f"After {burst} it had not recovered within {format_duration(found.watched_s)}."
    if found.recovered_s < BACK_AT_ONCE_S:
        return f"After {burst} all answers are in time again at once ({format_duration(found.recovered_s)})."
    return f"After {burst} it takes {format_duration(found.recovered_s)} until all answers are in time again."


def _death(found: Death) -> str:
    back = "was not back while it was watched" if found.back_s is None else f"is back in {found.back_s:.1f} s"
    lost = found.failed + found.refused
    whose = f"A killed replica of {found.of}" if found.of > 1 else "The only replica, killed,"
    if lost == 0 and found.late == 0:
        return f"{whose} {back}, and no request noticed."
    told = f"{found.failed:,} failed, {found.refused:,} refused, {found.late:,} late of {found.offered:,}"
    cure = "" if found.of > 1 or lost == 0 else " Two replicas would have answered: replicas = 2."
    return f"{whose} {back}: {told}.{cure}"


def _bare(bare: Bare, drill: Drill) -> Iterator[str]:
    ours = {step.times: step for step in drill.steps}
    step = highest(bare.steps)
    if step is not None and step.times in ours and not ours[step.times].void:
        yield (
            f"Bare ({bare.server}) it answers {step.goodput_per_s:,.0f}/s in time at {step.times:g}x, "
            f"behind Headway {ours[step.times].goodput_per_s:,.0f}/s."
        )
    if bare.recovery is not None:
        seconds = bare.recovery.recovered_s
        told = (
            f"needs {format_duration(seconds)}"
            if seconds is not None
            else f"is not done after {format_duration(bare.recovery.watched_s)}"
        )
        yield f"To recover from the burst it {told} bare."


def _scaling(sizes: tuple[Size, ...]) -> Iterator[str]:
    whole = [size for size in sizes if size.cores >= 1 and size.per_s]
    if len(whole) < 2:
        return
    first, last = whole[0], whole[-1]
    times = (sum(last.per_s) / len(last.per_s)) / (sum(first.per_s) / len(first.per_s))
    least = "at least " if last.is_lower_bound else ""
    yield f"From {first.cores:g} to {last.cores:g} cores the throughput grows {least}{times:.2f} times."


def _ceiling(found: Forecast) -> str:
    if found.is_bound:
        return (
            f"On {found.size:g} cores expect at most {found.high_per_s:,.0f}/s: so few sizes tell contention, but not "
            "what the cores must agree on, and that only takes away."
        )
    span = f"{found.low_per_s:,.0f} to {found.high_per_s:,.0f}/s"
    return f"On {found.size:g} cores expect {found.per_s:,.0f}/s ({span}, 95 of 100)."
