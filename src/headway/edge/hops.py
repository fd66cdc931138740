"""A line of the access log as spans: the edge's own, how long it held the request in a queue, and who refused it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from headway.model.calls import NO_RETRY, REFUSED, SPENT, UNAVAILABLE
from headway.model.span import WAITED_MS, Span, Value

CALLER, ATTEMPT, STATUS = "caller", "attempt", "http.response.status_code"
_TRACED = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_TRACE_ID, _SPAN_ID = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{16}")


def spans_of(entry: Mapping[str, Any]) -> tuple[Span, ...]:
    """The edge's span, and that of the queue when it was waited in; none for what is no request.

    Where the trace began at the edge, or spans are sent to a collector, its span has the id that the service was told
    as its parent. Else, where it came in from outside or with a call, it has that of the log's line each time it is
    read.
    """
    try:
        request, service = str(entry["id"]), str(entry["service"])
        begin_ns, duration_ns = int(entry["time"]) * 1_000_000, max(0, int(entry["total_ms"])) * 1_000_000
        queue_ms, ttfb_ms, status = int(entry["queue_ms"]), int(entry["ttfb_ms"]), int(entry["status"])
        method, path, replica, end = (str(entry[key]) for key in ("method", "path", "replica", "end"))
        caller, attempt, answered = (str(entry.get(key, "")) for key in ("caller", "attempt", "answered"))
    except (KeyError, ValueError, TypeError):
        return ()
    if not request:
        return ()
    traced = _TRACED.fullmatch(str(entry.get("trace", "")))
    trace, parent, flags = traced.groups() if traced else (_trace_of(request), "", "01")
    own = hashlib.blake2b(f"{request} {begin_ns} {parent} {path} {end}".encode(), digest_size=8).hexdigest()
    if _SPAN_ID.fullmatch(span := str(entry.get("span", ""))):
        own = span
    elif traced and trace == request and not caller:
        own, parent = parent, ""
    service, _, kind = ("", "", "") if service.startswith("headway.") else service.partition(".")
    replica = "" if replica.startswith("<") else replica
    attributes: dict[str, Value] = {"http.request.method": method, "url.path": path, STATUS: status, "end": end}
    if ttfb_ms >= 0:
        attributes["ttfb_ms"] = ttfb_ms
    if kind:
        attributes["class"] = kind
    if caller:
        attributes[CALLER] = caller
    if attempt > "1":
        attributes[ATTEMPT] = int(attempt)
    if queue_ms > 0:
        attributes[WAITED_MS] = queue_ms
    edge = Span(
        trace=trace,
        id=own,
        parent=parent,
        request=request,
        name=f"{method} {path}",
        kind="edge",
        begin_ns=begin_ns,
        duration_ns=duration_ns,
        failure=why_not(status, end, service, replica, caller, answered),
        service=service,
        replica=replica,
        is_sampled=flags[1] not in "02468ace",
        attributes=attributes,
    )
    if queue_ms <= 0:
        return (edge,)
    queue = Span(
        trace=trace,
        id=f"{int(own, 16) ^ 1:016x}",
        parent=own,
        request=request,
        name=f"queue of {service or 'nobody'}",
        kind="queue",
        begin_ns=begin_ns,
        duration_ns=min(queue_ms * 1_000_000, duration_ns),
        service=service,
        is_sampled=edge.is_sampled,
    )
    return edge, queue


def _trace_of(request: str) -> str:
    """Of a line that says nothing of a trace: the edge's own ids are those of the traces that it begins."""
    return request if _TRACE_ID.fullmatch(request) else hashlib.blake2b(request.encode(), digest_size=16).hexdigest()


# HAProxy's two letters: who ended it, and where it was then.
_HUNG_UP = {
    "R": "the client hung up before its request was whole",
    "Q": "the client hung up while it waited in the queue",
    "C": "the client hung up before a replica was reached",
    "H": "the client hung up before an answer came",
}
_REFUSED = {
    400: "the request is malformed",
    403: "it is not allowed",
    404: "no service has a route for this address",
    405: "the method is not allowed",
    408: "the request did not arrive in time",
    413: "the request body is larger than body_max",
    429: "this address makes more requests than client_rate allows",
}


_BY_WORKER = {
    REFUSED: "refused by {}: it holds as many requests or streams as it may",
    SPENT: "refused by {}: its deadline had passed before it was begun",
    UNAVAILABLE: "{} was about to end",
    NO_RETRY: "{} answered 503: what it needs was tried as often as may be",
}


def why_not(status: int, end: str, service: str, replica: str, caller: str, answered: str = "") -> str:
    """Why a request came to nothing, or was refused, and by whom; empty when it was not."""
    by, where = end[:1] or "-", end[1:2] or "-"
    who = replica or service
    if by in "Cc":
        told = "the client hung up" if by == "C" else "the client was too slow"
        return _HUNG_UP.get(where, f"{told} in the middle") if by == "C" else told
    if by == "s" and where == "Q":
        return f"refused by the edge: it waited in the queue of {service} until its deadline"
    if by == "s" and where == "H":
        return f"{who} did not answer before the deadline"
    if where in "DL" and by in "SsPKDU":
        return f"{who} broke off in the middle of its answer" if by != "s" else f"{who} went silent in its answer"
    if replica and status == 503 and answered in _BY_WORKER:
        return _BY_WORKER[answered].format(replica)
    if not replica or by in "PLR":
        return _by_edge(status, by, where, service, who, caller)
    if status == 502:
        return f"{who} broke off before it answered" if by == "S" else f"{who} answered 502"
    return f"{who} answered {status}" if status >= 500 else ""


def _by_edge(status: int, by: str, where: str, service: str, who: str, caller: str) -> str:
    if status in _REFUSED:
        return f"refused by the edge: {_REFUSED[status]}"
    if status == 503 and by in "LP":
        return f"refused by the edge: the queue of {service} was at its bound"
    if status == 503:
        return f"refused by the edge: no replica of {service} could be reached" if service else "refused by the edge"
    if status == 504 and by == "L" and caller:
        return "refused by the edge: no time was left for this call"
    if status == 502:
        return f"{who} answered with what is no HTTP" if by == "P" else f"{who} broke off before it answered"
    return f"the edge answered {status}" if status >= 500 else ""
