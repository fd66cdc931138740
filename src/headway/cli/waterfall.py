"""The waterfall of one request as text: a line a span, with a bar where it lies in the request's time. Pure.

`░` is waiting for a turn, `█` is work; a span that came to nothing says why on a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from headway.control.waterfall import Row, Waterfall, full_service, named, refusal, spent
from headway.model.units import format_duration

WIDTH_MIN, WIDTH_MAX = 72, 160
_LABEL_MAX_SHARE = 0.45
_WAITED, _WORKED = "░", "█"


def waterfall_lines(
    found: Waterfall, request: str, when: str, *, width: int, dropped: Mapping[str, int] = MappingProxyType({})
) -> list[str]:
    """The whole answer. `when`: the moment it began, as text; `width`: of the terminal; `dropped`: spans of that time
    that had no room, by replica."""
    width = max(WIDTH_MIN, min(width, WIDTH_MAX))
    labels = [f"{'  ' * min(row.depth, 12)}{named(row.span)}" for row in found.rows]
    label_width = min(max(map(len, labels)), int(width * _LABEL_MAX_SHARE))
    bar_width = width - label_width - 26
    lines = [f"request {request}  {when}  {_ms(found.duration_ns)}", ""]
    for row, label in zip(found.rows, labels, strict=True):
        begin = _ms(row.span.begin_ns - found.begin_ns)
        times = f"{begin:>9}  {_ms(row.span.duration_ns):>9}"
        lines.append(f"  {_cut(label, label_width):<{label_width}}  {times}  {bar(row, found, bar_width)}".rstrip())
        if row.span.failure:
            lines.append(f"  {'  ' * min(row.depth, 12)}✗ {row.span.failure}")
    if found.left_out:
        lines.append(f"  … {found.left_out} more")
    lines += ["", *_verdict(found), *_missing(dropped)]
    return lines


def _missing(dropped: Mapping[str, int]) -> Iterator[str]:
    for replica, count in dropped.items():
        spans = "one span" if count == 1 else f"{count:,} spans"
        yield f"  {spans} of {replica} had no room around that time and {'is' if count == 1 else 'are'} not told here"


def bar(row: Row, found: Waterfall, width: int) -> str:
    """Where the span lies in the whole, in characters; at least one."""
    total_ns = max(1, found.duration_ns)
    begin = min(width - 1, (row.span.begin_ns - found.begin_ns) * width // total_ns)
    length = max(1, min(width - begin, round(row.span.duration_ns * width / total_ns)))
    is_queue = row.span.kind == "queue"
    waited = length if is_queue else min(length, round(row.span.waited_ns * width / total_ns))
    return " " * begin + _WAITED * waited + _WORKED * (length - waited)


def _verdict(found: Waterfall) -> Iterator[str]:
    why = refusal(found)
    if why:
        yield f"  it came to nothing: {why}"
    if full := full_service(found):
        yield f"  what was done about {full} at that time: headway explain {full}"
    parts = [f"{name} {_ms(own_ns)}" for name, own_ns in spent(found)]
    if parts:
        yield f"  its time went to: {', '.join(parts)}"


def waterfall_document(
    found: Waterfall, request: str, dropped: Mapping[str, int] = MappingProxyType({})
) -> dict[str, Any]:
    """The same for `--json`: times of spans in nanoseconds, as they were written."""
    return {
        "request": request,
        "begin_ns": found.begin_ns,
        "duration_ms": round(found.duration_ns / 1e6, 3),
        "failure": refusal(found),
        "spent_ms": {name: round(own_ns / 1e6, 3) for name, own_ns in spent(found, most=100)},
        "left_out": found.left_out,
        "dropped": dict(dropped),
        "spans": [
            {**row.span.document(), "depth": row.depth, "own_ms": round(row.own_ns / 1e6, 3)} for row in found.rows
        ],
    }


def _ms(time_ns: int) -> str:
    return format_duration(time_ns / 1e9)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
