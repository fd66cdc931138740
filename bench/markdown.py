"""Tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows that each begin with what they are of; `head` names the columns after that."""
    lines = ["| | " + " | ".join(head) + " |", "|---|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
