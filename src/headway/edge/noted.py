"""What is noted of each request: an id, the trace it belongs to, and its line in the access log."""

from __future__ import annotations

from headway.model.calls import ANSWERED, NO_RETRY, REFUSED, SPENT, UNAVAILABLE
from headway.model.edge import EdgePlan

VALID_ID = "^[A-Za-z0-9._-]{1,128}$"
_REASONS = (REFUSED, SPENT, UNAVAILABLE, NO_RETRY)
_TRACED = "req.hdr(traceparent) -m reg ^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"


def access_log_lines(plan: EdgePlan, *, of_calls: bool = False) -> list[str]:
    """One JSON object a request; of a call it says who calls, and which attempt it is."""
    begun = "http-request set-var(txn.begun) date(0,ms)"
    if not plan.access_log:
        return ["# The access log is off.", *([begun] if of_calls or plan.has_calls else [])]
    caller, attempt = ("%[var(txn.caller,?)]", "%[var(txn.attempt,1)]") if of_calls else ("", "1")
    told = {"caller": caller, "attempt": attempt}
    answered = {
        "time": "%[var(txn.begun)]",  # HAProxy's own date is that of the connection, or of its last request's end
        "queue_ms": "%Tw",
        "ttfb_ms": "%[var(txn.ttfb,-1)]",
        "id": request_id(plan, of_calls=of_calls),
        "trace": "%[var(txn.trace,-)]",
        "answered": "%[var(txn.answered,-)]",
    }
    unreadable = {"time": "%Ts%ms", "queue_ms": "-1", "ttfb_ms": "-1", "id": "", "trace": "-", "answered": "-"}
    if plan.exports:
        answered["span"], unreadable["span"] = "%[var(txn.span,-)]", "-"
    return [
        "# One JSON object a request, without the query string, which may hold secrets.",
        "log stdout len 8192 format raw local0 info",
        f"log-format '{_log_line(answered | told)}'",
        "# The same for what was no request at all.",
        f"error-log-format '{_log_line(unreadable | told)}'",
        begun,
        "http-after-response set-var(txn.ttfb) date(0,ms),sub(txn.begun)",
        "# Why a worker ran nothing, or what it ran has no point in being asked again.",
        f"http-after-response set-var(txn.answered) res.hdr({ANSWERED}) if {{ status 503 }} "
        f"{{ res.hdr({ANSWERED}) -m str {' '.join(_REASONS)} }}",
    ]


def _log_line(values: dict[str, str]) -> str:
    fields = {
        "time": values["time"],
        "client": '"%ci"',
        "method": '"%HM"',
        "path": '"%[capture.req.uri,field(1,?),json(utf8s)]"',
        "status": "%ST",
        "service": '"%b"',
        "replica": '"%s"',
        "queue_ms": values["queue_ms"],
        "ttfb_ms": values["ttfb_ms"],
        "total_ms": "%Ta",
        "bytes": "%B",
        "end": '"%ts"',
        "id": f'"{values["id"]}"',
        "caller": f'"{values["caller"]}"',
        "attempt": values["attempt"],
        "trace": f'"{values["trace"]}"',
        "answered": f'"{values["answered"]}"',
    } | ({"span": f'"{values["span"]}"'} if "span" in values else {})
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"


def identity_lines(plan: EdgePlan, *, of_calls: bool = False) -> list[str]:
    """An id for each request and a trace that begins here, unless a valid one came in.

    The id is the time in microseconds (16 decimal digits, until the year 2286) and 16 random hexadecimal ones: it sorts
    by time, serves as trace id, and costs a microsecond less than HAProxy's `uuid`.
    """
    lines = [
        "# One id finds a request in the access log, in the app and in traces.",
        'unique-id-format "%[date(0,us)]%[rand,xxh64,hex,lower]"',
        f"http-request set-header traceparent 00-%[unique-id]-%[rand,xxh64,hex,lower]-01 unless {{ {_TRACED} }}",
    ]
    if plan.access_log:
        lines.append("http-request set-var(txn.trace) req.hdr(traceparent)")
    if plan.access_log and plan.exports:
        # Where nobody reads the hop's span, an app's own would be within one that is nowhere.
        parts = [f"%[var(txn.trace),field({number},-)]" for number in (1, 2, 4)]
        own = f"{parts[0]}-{parts[1]}-%[var(txn.span)]-{parts[2]}"
        lines = [
            "# Spans are sent to a collector: where a trace came in, the hop is a span of its own in it, and the",
            "# service's is within that.",
            f"http-request set-var(txn.span) rand,xxh64,hex,lower if {{ {_TRACED} }}",
            *lines,
            f"http-request set-header traceparent {own} if {{ var(txn.span) -m found }}",
        ]
    if plan.trusted or of_calls:
        believed = f"{{ req.hdr(x-request-id) -m reg {VALID_ID} }}"
        lines += [
            "http-request set-var(txn.id) unique-id",
            f"http-request set-var(txn.id) req.hdr(x-request-id) if {'' if of_calls else 'trusted '}{believed}",
        ]
    identity = request_id(plan, of_calls=of_calls)
    return [
        *lines,
        f"http-request set-header X-Request-Id {identity}",
        f"http-after-response set-header X-Request-Id {identity}",
    ]


def request_id(plan: EdgePlan, *, of_calls: bool = False) -> str:
    """The id of the request in a format of HAProxy's."""
    return "%[var(txn.id)]" if plan.trusted or of_calls else "%[unique-id]"
