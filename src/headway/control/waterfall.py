"""The spans of one request put in order: who was within whom, and what was spent on each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from headway.model.span import Span

ROWS_MAX = 400
STATUS = "http.response.status_code"
_APART_NS = 5_000_000  # the access log counts in milliseconds, and clocks are set right now and then


@dataclass(frozen=True, slots=True)
class Row:
    """A span with how deep it lies within others, and how much of its time is in none of those within it."""

    span: Span
    depth: int
    own_ns: int


@dataclass(frozen=True, slots=True)
class Waterfall:
    """All of one request. `left_out`: spans beyond the bound."""

    rows: tuple[Row, ...]
    begin_ns: int
    end_ns: int
    left_out: int = 0

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.begin_ns


def waterfall(spans: Iterable[Span], *, most: int = ROWS_MAX) -> Waterfall:
    """Order them; at least one is needed."""
    known = sorted({span.id: span for span in spans}.values(), key=lambda span: (span.begin_ns, -span.duration_ns))
    parents = _parents(known)
    children: dict[str, list[Span]] = {}
    for span in known:
        children.setdefault(parents[span.id], []).append(span)
    rows = tuple(_walk(children, "", 0))
    return Waterfall(
        rows[:most],
        min(span.begin_ns for span in known),
        max(span.end_ns for span in known),
        len(rows[most:]),
    )


def _walk(children: dict[str, list[Span]], parent: str, depth: int) -> Iterator[Row]:
    for span in children.get(parent, ()):
        within = children.get(span.id, ())
        yield Row(span, depth, span.duration_ns - _covered_ns(span, within))
        yield from _walk(children, span.id, depth + 1)


def _covered_ns(span: Span, within: Sequence[Span]) -> int:
    """How much of a span lies in those within it, which begin in order."""
    covered, until = 0, span.begin_ns
    for one in within:
        end = min(one.end_ns, span.end_ns)
        if end > until:
            covered += end - max(until, one.begin_ns)
            until = end
    return max(0, min(covered, span.duration_ns))


def _parents(spans: Sequence[Span]) -> dict[str, str]:
    """The parent of each, empty for those that have none here. No span is within itself, whatever was written."""
    by_id = {span.id: span for span in spans}
    edges = [span for span in spans if span.kind == "edge"]
    found: dict[str, str] = {}
    for span in spans:
        parent = ""
        if span.kind == "service":
            parent = _edge_of(span, edges)
        if not parent and span.parent in by_id:
            parent = span.parent
        if not parent and span.kind not in ("edge", "service"):
            parent = _around(span, spans)
        found[span.id] = parent
    for span in spans:
        seen, at = {span.id}, found[span.id]
        while at:
            if at in seen:
                found[span.id] = ""
                break
            seen.add(at)
            at = found[at]
    return found


def _edge_of(span: Span, edges: Sequence[Span]) -> str:
    """The hop by which a service was asked. The edge passes on the traceparent of a call as it came, so a service names
    the same parent as the hop; where a hop was repeated, the replica and the time tell which it was."""
    fitting = [
        edge
        for edge in edges
        if (edge.trace == span.trace or edge.request == span.request)
        and edge.replica == span.replica
        and edge.begin_ns <= span.begin_ns + _APART_NS
        and span.begin_ns <= edge.end_ns + _APART_NS
    ]
    named = [edge for edge in fitting if span.parent and span.parent in (edge.id, edge.parent)]
    return max(named or fitting, key=lambda edge: edge.begin_ns, default=_NOBODY).id


def _around(span: Span, spans: Sequence[Span]) -> str:
    """Of a span whose parent was never written, for the process was killed: the hop to its replica, at its time."""
    fitting = (
        one
        for one in spans
        if one.kind in ("service", "edge")
        and one.replica == span.replica
        and one.begin_ns <= span.begin_ns + _APART_NS
        and span.begin_ns <= one.end_ns + _APART_NS
    )
    return max(fitting, key=lambda one: one.begin_ns, default=_NOBODY).id


_NOBODY = Span("", "", "", "", "", "", 0, 0)


def refusal(found: Waterfall) -> str:
    """Who refused the request, or why it came to nothing: what the outermost span says, and the innermost reason."""
    if not found.rows or not found.rows[0].span.failure:
        return ""
    outermost = found.rows[0].span.failure
    # What a service answered is said by its hop as well.
    within = [row for row in found.rows[1:] if row.span.failure and row.span.kind != "service"]
    deepest = max(within, key=lambda row: (row.depth, -row.span.begin_ns), default=None)
    return outermost if deepest is None else f"{outermost}; {named(deepest.span)}: {deepest.span.failure}"


def full_service(found: Waterfall) -> str:
    """The service that had no room or was not there, by the edge's word; empty when nothing was refused for that."""
    refused = (row.span for row in found.rows if row.span.kind == "edge" and not row.span.replica and row.span.failure)
    return next((span.service for span in refused if span.attributes.get(STATUS) == 503), "")


def named(span: Span) -> str:
    """A span in a few words."""
    attributes = span.attributes
    if span.kind == "edge":
        to = f" → {span.replica or span.service}" if span.service else ""
        status = f" {attributes[STATUS]}" if STATUS in attributes else ""
        attempt = f", attempt {attributes['attempt']}" if "attempt" in attributes else ""
        return f"edge {span.name}{to}{status}{attempt}"
    if span.kind == "service":
        return span.replica or span.name
    if span.kind == "call":
        what = " ".join(str(attributes[key]) for key in ("method", "path") if key in attributes)
        return f"call {span.name} {what}".rstrip()
    if span.kind == "database" and "shard" in attributes:
        return f"{span.name} shard {attributes['shard']} on {attributes.get('server', '')}"
    return span.name


def spent(found: Waterfall, *, most: int = 4) -> list[tuple[str, int]]:
    """What the time went to, the largest first, in nanoseconds: each span's own time, summed up by what it is."""
    sums: dict[str, int] = {}
    told = _with_a_service(found)
    for row in found.rows:
        span = row.span
        # A service that leaves no span of its own is where a request is that is at its replica.
        of_edge = span.service if span.replica and span.id not in told else "edge"
        name = {"edge": of_edge, "service": span.service, "call": f"way to {span.name}"}.get(span.kind) or span.name
        waited_ns = min(span.waited_ns, row.own_ns) if span.kind == "database" else 0
        for what, own_ns in ((f"waiting for {name}", waited_ns), (name, row.own_ns - waited_ns)):
            sums[what] = sums.get(what, 0) + own_ns
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return [(name, own_ns) for name, own_ns in ordered[:most] if own_ns > 0]


def _with_a_service(found: Waterfall) -> set[str]:
    """Ids of the hops whose service has a span of its own."""
    above: dict[int, str] = {}
    told = set()
    for row in found.rows:
        above[row.depth] = row.span.id
        if row.span.kind == "service" and row.depth:
            told.add(above[row.depth - 1])
    return told
