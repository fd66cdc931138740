"""A load while it runs, on a terminal: what is offered and what comes of it, as lines that grow to the right.

The picture is drawn by the process that sends the load, so it has to be cheap: a few lines of text, twice a second, or
drawing would make requests late.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from headway.lab.outcome import Progress
from headway.lab.report import ms

_LEVELS = "▁▂▃▄▅▆▇█"
_ENDINGS = ("ok", "late", "refused", "failed")
_WORDS = {"ok": "goodput", "late": "late", "refused": "refused", "failed": "failed"}
_COLOURS = {"offered": "default", "goodput": "green", "late": "yellow", "refused": "blue", "failed": "red"}
_HISTORY = 50
_BAR = 30


class LoadPicture:
    """The lines of the picture, from one look at the load to the next. Knows no terminal."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._before = Progress(0.0, 0.0, 0, 0, 0, 0, 0, 0)
        self._rates: dict[str, deque[float]] = {name: deque(maxlen=_HISTORY) for name in ("offered", *_WORDS.values())}

    def lines(self, progress: Progress) -> list[tuple[str, str]]:
        """Text and colour of each line, now."""
        before, self._before = self._before, progress
        span_s = progress.elapsed_s - before.elapsed_s
        if span_s > 0:
            self._rates["offered"].append((progress.offered - before.offered) / span_s)
            for ending in _ENDINGS:
                rate = (getattr(progress, ending) - getattr(before, ending)) / span_s
                self._rates[_WORDS[ending]].append(rate)
        # One height for all, or a handful of failures would look like as many as the answers.
        top = max((max(rates, default=0.0) for rates in self._rates.values()), default=0.0)
        done = min(1.0, progress.elapsed_s / progress.duration_s) if progress.duration_s > 0 else 1.0
        bar = "━" * round(done * _BAR) + "─" * (_BAR - round(done * _BAR))
        head = f"  {bar}  {progress.elapsed_s:.0f} of {progress.duration_s:.3g} s  {self._url}"
        lines = [(head, "default"), ("", "default")]
        for name, rates in self._rates.items():
            now = rates[-1] if rates else 0.0
            lines.append((f"  {name:<8} {now:>9,.0f}/s  {sparkline(rates, top)}", _COLOURS[name]))
        latency = f"  latency  p50 {ms(progress.p50_ms)}  p99 {ms(progress.p99_ms)} so far"
        lines.append((f"{latency}  {progress.in_flight:,} in flight", "default"))
        return lines


def sparkline(values: Sequence[float] | deque[float], top: float) -> str:
    """A character for each value, as high as it is compared with `top`; what is above nothing is seen."""
    if top <= 0:
        return " " * len(values)
    steps = len(_LEVELS) - 1
    return "".join(" " if value <= 0 else _LEVELS[min(steps, max(0, round(value / top * steps)))] for value in values)


class LoadView:
    """Draws the picture in place on standard error, and takes it away at the end: the report says it all."""

    def __init__(self, url: str) -> None:
        from rich.console import Console  # only where there is a terminal to draw on
        from rich.live import Live

        self._picture = LoadPicture(url)
        self._live: Any = Live(console=Console(file=sys.stderr), auto_refresh=False, transient=True)
        self._live.start()

    def update(self, progress: Progress) -> None:
        """Show the present."""
        from rich.text import Text

        text = Text(no_wrap=True, overflow="ellipsis")
        for line, colour in self._picture.lines(progress):
            text.append(line + "\n", style=colour)
        self._live.update(text, refresh=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()
