"""How throughput grows with cores, and how far that may be carried on: the Universal Scalability Law (N. Gunther).

    X(N) = λN / (1 + σ(N − 1) + κN(N − 1))

λ is what one core carries, σ the contention (work that waits in line), κ the coherence (work that all must agree on).
A fit looks precise long before it is: with sizes up to 4 and 1 % of noise the size of the highest throughput comes out
anywhere from 11 to 31,000. So no maximum is ever told, nothing beyond twice the largest size measured, and every figure
has its interval. Sizes below one core have no second worker to contend with: there X(N) = λN. Pure; seeds come in.

Repeats of one size agree better than they should: what that minute did to one it did to all. So they do not count as so
many measurements, and the interval goes by the larger of two spreads, each with the few degrees of freedom it has: how
repeats differ, and how sizes lie off the curve. The latter is known only with more sizes than unknowns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from statistics import fmean

BEYOND_MAX = 2.0  # times the largest size measured
# One more than there are unknowns, or nobody knows how far the sizes lie off the curve.
SIZES_MIN = 4
BOUND_SIZES_MIN = 3  # with κ taken as 0
DRAWS = 400  # of the bootstrap: its own error is then a few per cent of the interval's width
CONFIDENCE = 0.95
_DEVIATION_MAX = 0.9  # of a draw: with one degree of freedom some would else turn a throughput negative


@dataclass(frozen=True, slots=True)
class Curve:
    """The law with its three numbers."""

    per_core: float  # λ
    contention: float  # σ
    coherence: float  # κ

    def at(self, size: float) -> float:
        """Throughput at `size` cores."""
        more = max(0.0, size - 1.0)
        return self.per_core * size / (1.0 + self.contention * more + self.coherence * size * more)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Throughput expected at a size, with the interval that holds it in 95 of 100 such measurements.

    `is_bound`: too few sizes for σ and κ both; κ was taken as 0, and what comes will be `high_per_s` or less.
    """

    size: float
    per_s: float
    low_per_s: float
    high_per_s: float
    curve: Curve
    is_bound: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why nothing can be said, in a sentence."""

    reason: str


def fit(points: Sequence[tuple[float, float]], *, coherence: bool = True) -> Curve:
    """The curve with the least squared relative error, λ > 0, σ ≥ 0 and κ ≥ 0; without `coherence` κ is 0.

    N / X(N) = a + b(N − 1) + cN(N − 1) is linear. With three numbers every choice of those that are zero can be solved
    and the best admissible one taken; the problem is convex, so that this is the optimum.
    """
    if not points or any(size <= 0 or per_s <= 0 for size, per_s in points):
        raise ValueError("sizes and throughputs must be above 0")
    # Weighted by X / N, the error of N / X becomes relative: a slow size counts as much as a fast one.
    rows = [_row(size, per_s) for size, per_s in points]
    best: tuple[float, tuple[float, float, float]] | None = None
    for with_b, with_c in product((True, False), (True, False) if coherence else (False,)):
        used = [0, *([1] if with_b else []), *([2] if with_c else [])]
        solved = _solve(rows, used)
        if solved is None or solved[0] <= 0 or min(solved) < 0:
            continue
        error = math.fsum((1.0 - sum(x * y for x, y in zip(row, solved, strict=True))) ** 2 for row in rows)
        if best is None or error < best[0] - 1e-15:
            best = (error, solved)
    if best is None:  # a alone is the mean of positive numbers
        raise ValueError("no curve fits")
    a, b, c = best[1]
    return Curve(1.0 / a, b / a, c / a)


def forecast(samples: Mapping[float, Sequence[float]], size: float, *, seed: int = 0) -> Forecast | Unknown:
    """What `size` cores would carry, from repeated throughputs by size."""
    known = {n: tuple(xs) for n, xs in sorted(samples.items()) if xs and min(xs) > 0}
    whole = [n for n in known if n >= 1]
    if len(whole) < BOUND_SIZES_MIN:
        sizes = f"{len(whole)} size{'' if len(whole) == 1 else 's'} of at least a core"
        return Unknown(f"{sizes} cannot tell how far to trust a forecast: that takes {BOUND_SIZES_MIN} or more")
    if size > BEYOND_MAX * whole[-1]:
        return Unknown(
            f"nothing is told beyond twice the largest size measured: {size:g} cores from {whole[-1]:g} is a guess"
        )
    if not any(len(xs) > 1 for xs in known.values()):
        return Unknown("each size was measured once: without repeats there is no interval, and no figure without one")
    means = {n: fmean(xs) for n, xs in known.items()}
    full = len(whole) >= SIZES_MIN
    curve = fit([(n, x) for n, xs in known.items() for x in xs], coherence=full)
    spread, freedom = _spread(known, means, curve, unknowns=3 if full else 2)
    chance, drawn = Random(seed), []
    for _ in range(DRAWS):
        # How large the spread really is, is known no better than its degrees of freedom allow (Student's t).
        scale = spread * math.sqrt(freedom / (2 * chance.gammavariate(freedom / 2, 1)))
        moved = [(n, mean * (1 + _deviation(chance, scale))) for n, mean in means.items()]
        drawn.append(fit(moved, coherence=full).at(size) * (1 + _deviation(chance, scale)))
    drawn.sort()
    tail = (1 - CONFIDENCE) / 2
    low, high = drawn[int(tail * DRAWS)], drawn[min(DRAWS - 1, int((1 - tail) * DRAWS))]
    expected = curve.at(size)
    return Forecast(size, expected, min(low, expected), max(high, expected), curve, is_bound=not full)


def _spread(
    samples: Mapping[float, Sequence[float]], means: Mapping[float, float], curve: Curve, unknowns: int
) -> tuple[float, int]:
    """The relative error of a size, and its degrees of freedom: by its repeats or by the curve, whichever is larger."""
    repeats = [(x / means[n] - 1) ** 2 for n, xs in samples.items() if len(xs) > 1 for x in xs]
    freedom = sum(len(xs) - 1 for xs in samples.values())
    found = (math.sqrt(math.fsum(repeats) / freedom), freedom)
    over = len(means) - unknowns
    if over > 0:
        off = math.fsum((1 - mean / curve.at(n)) ** 2 for n, mean in means.items())
        found = max(found, (math.sqrt(off / over), over))
    return found


def _deviation(chance: Random, scale: float) -> float:
    return min(_DEVIATION_MAX, max(-_DEVIATION_MAX, chance.gauss(0, scale)))


def _row(size: float, per_s: float) -> tuple[float, float, float]:
    weight, more = per_s / size, max(0.0, size - 1.0)
    return weight, more * weight, size * more * weight


def _solve(rows: Sequence[tuple[float, float, float]], used: Sequence[int]) -> tuple[float, float, float] | None:
    """Least squares of `row · solution = 1` over the columns in `used`, the others zero; None when undetermined.

    By orthogonal columns (modified Gram–Schmidt, twice): normal equations would lose half of the digits.
    """
    columns = [[row[index] for row in rows] for index in used]
    basis: list[list[float]] = []
    upper = [[0.0] * len(used) for _ in used]
    for number, column in enumerate(columns):
        length = math.sqrt(math.fsum(x * x for x in column))
        rest = list(column)
        for _ in range(2):
            for at, direction in enumerate(basis):
                along = math.fsum(x * y for x, y in zip(rest, direction, strict=True))
                upper[at][number] += along
                rest = [x - along * y for x, y in zip(rest, direction, strict=True)]
        norm = math.sqrt(math.fsum(x * x for x in rest))
        if norm <= 1e-9 * max(length, 1e-300):
            return None
        upper[number][number] = norm
        basis.append([x / norm for x in rest])
    solution = [math.fsum(direction) for direction in basis]
    for number in reversed(range(len(used))):
        later = range(number + 1, len(used))
        solution[number] = (solution[number] - sum(upper[number][at] * solution[at] for at in later)) / upper[number][
            number
        ]
    found = [0.0, 0.0, 0.0]
    for index, value in zip(used, solution, strict=True):
        found[index] = value
    return found[0], found[1], found[2]
