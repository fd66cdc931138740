"""Watches a running system: a live picture on a terminal, plain lines of the journal when piped."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

from headway.cli.show import journal_line, status_lines, traffic_line

_EVENTS = 8


class View:
    """Takes status documents and journal entries; draws them in place on a terminal, else prints what is new."""

    def __init__(self, *, live: bool, hint: str) -> None:
        self._hint = hint
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._live: Any = None
        if live:
            from rich.live import Live  # only where there is a terminal to draw on

            self._live = Live(auto_refresh=False, screen=False, vertical_overflow="crop")
            self._live.start()

    def update(self, document: dict[str, Any] | None, entries: list[dict[str, Any]]) -> None:
        """Show the present; `document` is None while nobody answers."""
        for entry in entries:
            line = journal_line(entry)
            self._events.append(line)
            if self._live is None:
                print(line, flush=True)
        if self._live is None or document is None:
            return
        from rich.text import Text

        lines = status_lines(document)
        lines += ["", "  " + traffic_line(document), ""]
        lines += ["  " + line for line in self._events]
        lines += ["", f"  {self._hint}"]
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)

    def end(self) -> None:
        """What was watched has ended: its last lines stand in the place of the picture, which would say otherwise."""
        if self._live is not None:
            self._live.transient = True
            self.close()
            print("\n".join(self._events), flush=True)

    def close(self) -> None:
        """Leave the last picture where it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def is_terminal() -> bool:
    """Whether standard output is a terminal that can be drawn on."""
    return sys.stdout.isatty()
