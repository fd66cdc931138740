"""A load whose rate changes: what a person writes, read into pieces that follow each other. Pure.

    "100 for 10s, 1000 for 3s, 100 for 20s"     a spike
    "100..1000 for 60s"                         a ramp
    "100 200 400 for 10s each"                  steps

One word, `for`, gives every piece its duration; commas stand between pieces. A rate of 0 is a pause.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from headway.errors import HeadwayError
from headway.model.units import format_duration, parse_duration_s

PIECES_MAX = 200
_HINT = 'write it like "100 for 10s, 1000 for 3s", "100..1000 for 60s" or "100 200 400 for 10s each"'
_RATE = r"\d{1,9}(?:\.\d{1,9})?"
_PIECE = re.compile(rf"(?P<rates>{_RATE}(?:\.\.{_RATE}|(?:\s+{_RATE})*))\s+for\s+(?P<duration>\S+)(?:\s+each)?")


@dataclass(frozen=True, slots=True)
class Piece:
    """A time in which the rate goes evenly from one value to another."""

    duration_s: float
    from_per_s: float
    to_per_s: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise HeadwayError(f"a piece of a schedule cannot last {self.duration_s:g} s", hint=_HINT)
        for rate_per_s in (self.from_per_s, self.to_per_s):
            if not (math.isfinite(rate_per_s) and rate_per_s >= 0):
                raise HeadwayError(f"a piece of a schedule cannot have the rate {rate_per_s:g}", hint=_HINT)

    @property
    def offered_expected(self) -> float:
        """How many requests this comes to, on average."""
        return self.duration_s * (self.from_per_s + self.to_per_s) / 2

    def time_s(self, count: float) -> float:
        """When `count` requests are due, from the piece's beginning; `count` is at most what it offers."""
        if self.from_per_s == self.to_per_s:
            return count / self.from_per_s
        # The root of a x t + (b - a) x t² / 2D = count, in the form that also holds for a = 0 and falling rates.
        rise = (self.to_per_s - self.from_per_s) / self.duration_s
        root = math.sqrt(max(0.0, self.from_per_s**2 + 2 * rise * count))
        return min(2 * count / (self.from_per_s + root), self.duration_s) if count > 0 else 0.0

    def __str__(self) -> str:
        rates = f"{self.from_per_s:g}" + (f"..{self.to_per_s:g}" if self.to_per_s != self.from_per_s else "")
        return f"{rates}/s for {format_duration(self.duration_s)}"


def parse_schedule(texts: Iterable[str]) -> tuple[Piece, ...]:
    """The pieces of one or several texts, in their order; HeadwayError with an example when one cannot be read."""
    pieces: list[Piece] = []
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        match = _PIECE.fullmatch(text)
        if match is None:
            raise HeadwayError(f'--schedule: "{text[:60]}" is no piece of a schedule', hint=_HINT)
        try:
            duration_s = parse_duration_s(match["duration"])
        except ValueError as error:
            raise HeadwayError(f"--schedule: {error}", hint=_HINT) from None
        first, dots, last = match["rates"].partition("..")
        if dots:
            pieces.append(Piece(duration_s, float(first), float(last)))
        else:
            pieces += [Piece(duration_s, float(rate), float(rate)) for rate in match["rates"].split()]
    if not 0 < len(pieces) <= PIECES_MAX:
        raise HeadwayError(f"--schedule: {len(pieces)} pieces; from 1 to {PIECES_MAX} are possible", hint=_HINT)
    return tuple(pieces)
