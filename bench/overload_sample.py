"""One load as a row needs it, and rows of several rounds: medians of what counts, and what does not count said so.

A load that this generator could not make tells of the generator: it is void. A row with too few loads left is void too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headway.lab.load import LoadResult
from headway.lab.outcome import DEADLINE


@dataclass(frozen=True, slots=True)
class Sample:
    """One load. Times in milliseconds, None where there was nothing to time."""

    goodput_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    refused_p99_ms: float | None
    hung_share: float  # of what was offered: no answer when its client gave up
    void: str = ""  # why it does not count


def sample_of(result: LoadResult) -> Sample:
    """What a row shows of a load."""
    return Sample(
        result.goodput_per_s,
        result.latency_ms["p50"],
        result.latency_ms["p99"],
        result.refused_ms["p99"],
        result.failures.get(DEADLINE, 0) / result.offered if result.offered else 0.0,
        void_of(result),
    )


def void_of(result: LoadResult) -> str:
    """Why a load does not count; nothing when it does."""
    generator = result.generator
    return f"generator: {generator.cause or 'too late'}" if generator.bottleneck else ""


def counted(samples: Sequence[Sample]) -> list[Sample]:
    """Those that count; none when fewer than half of them do."""
    good = [sample for sample in samples if not sample.void]
    return good if len(good) * 2 >= len(samples) else []


def void_text(samples: Sequence[Sample]) -> str:
    """What stands where a figure would."""
    return f"void ({next(sample.void for sample in samples if sample.void)})" if samples else "–"


def cell(samples: Sequence[Sample], text: Callable[[Sequence[Sample]], str]) -> str:
    """A cell of the table: `text` of the samples that count."""
    good = counted(samples)
    return text(good) if good else void_text(samples)


def detail(samples: Sequence[Sample], text: Callable[[Sequence[Sample]], str]) -> str:
    """A cell beside one that already says why its load does not count."""
    good = counted(samples)
    return text(good) if good else "–"


def share(samples: Sequence[Sample], capacity_per_s: float) -> str:
    """Goodput compared with a capacity."""
    return f"{statistics.median(sample.goodput_per_s for sample in samples) / capacity_per_s * 100:.0f} %"


def served(samples: Sequence[Sample]) -> str:
    """Latency of what was served, in time or late."""
    return f"{_median_ms([s.p50_ms for s in samples])} / {_median_ms([s.p99_ms for s in samples])}"


def refused(samples: Sequence[Sample]) -> str:
    """How long it took to be refused, for the slowest hundredth."""
    return _median_ms([sample.refused_p99_ms for sample in samples])


def hung(samples: Sequence[Sample]) -> str:
    """The share that got no answer at all."""
    return f"{statistics.median(sample.hung_share for sample in samples) * 100:.0f} %"


def _median_ms(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):,.1f} ms" if known else "–"
