"""Calls between services: the private way to each service that is called, into the same backends as from outside.

Who may call is who can open the socket, so what a call says of itself is believed where it makes sense: who calls, how
critical the request is that it is made for, and for how much longer somebody waits. What is garbage counts as not said.
Answers that no app gave say why, so that a caller can tell a service that refuses from one that is not there.

A variable of HAProxy says for the backends that a request is a call (`txn.caller`, which no other request has), and
from whom the worker is told it came (`txn.from`).
"""

from __future__ import annotations

from headway.edge.noted import access_log_lines, identity_lines
from headway.edge.routes import class_route_lines
from headway.edge.words import comment, milliseconds, word
from headway.model.calls import ANSWERED, ATTEMPT, CALLER, CRITICALITY, DEADLINE, REFUSED, SPENT, UNAVAILABLE
from headway.model.edge import EdgeClass, EdgePlan, EdgeService
from headway.model.overload import CRITICALITIES

FRONTEND = "headway.call."
IS_CALL = "{ var(txn.caller) -m found }"

# Longer than any deadline that can be declared: a claim beyond it is a mistake, and counts as not said.
_LEFT_DIGITS = 8
_SPENT_TEXT = "No time is left for this call.\\n"
_LEVELS = " ".join(str(level) for level in range(len(CRITICALITIES)))
# RFC 9218: u=0 to u=7, 3 when nothing is said. What a request says of itself can only make it less important.
LATER, LAST = ("u=4 u=5", 2), ("u=6 u=7", 3)


def call_frontend(plan: EdgePlan, service: EdgeService) -> tuple[str, list[str]]:
    """Title and lines of the way to one service."""
    caller, attempt, level, left = (f"req.fhdr({name})" for name in (CALLER, ATTEMPT, CRITICALITY, DEADLINE))
    lines = [
        *(f"bind fd@{listener.fd}  # {comment(listener.address)}" for listener in service.called_at),
        "",
        *access_log_lines(plan, of_calls=True),
        "",
        "# Who calls, which attempt it is, and how critical the request is that it is made for. The first two are of",
        "# this hop alone: an app that sends on what it got must not pass them for its own.",
        "http-request set-var(txn.caller) str(?)",
        f"http-request set-var(txn.caller) {caller} if {{ {caller} -m reg ^[a-z][a-z0-9_-]{{0,30}}$ }}",
        f"http-request set-var(txn.attempt) {attempt} if {{ {attempt} -m reg ^[1-9]$ }}",
        f"http-request set-var(txn.said_level) {level},add(0) if {{ {level} -m str {_LEVELS} }}",
        "http-request del-header x-headway- -m beg",
        f"http-request set-header {CRITICALITY} %[var(txn.said_level)] if {{ var(txn.said_level) -m found }}",
        "# The worker is told that it came from this machine.",
        "http-request set-var(txn.from) str('http 127.0.0.1 0')",
        "",
        *identity_lines(plan, of_calls=True),
        "",
        *gate_lines(),
        "",
        "# For how much longer somebody waits, in milliseconds; what is no such number counts as not said.",
        f"http-request set-var(txn.left) {left},add(0) if {{ {left} -m reg ^[0-9]{{1,{_LEFT_DIGITS}}}$ }}",
        f'http-request return status 504 content-type text/plain string "{_SPENT_TEXT}" hdr {ANSWERED} {SPENT} '
        f"if {{ {left} -m reg ^-[0-9]+$ }} || {{ var(txn.left) -m int 0 }}",
        "",
        "# Why there is no answer of an app: no room, no time left, or nobody there.",
        "http-response set-var(txn.by_app) bool(true)",
        f"http-after-response set-header {ANSWERED} {REFUSED} if {{ status 503 }} {{ sc_tracked(3) }} "
        "!{ var(txn.by_app) -m found }",
        f"http-after-response set-header {ANSWERED} {SPENT} if {{ status 503 504 }} !{{ sc_tracked(3) }} "
        "{ date(0,ms),sub(txn.due) ge 0 } !{ var(txn.by_app) -m found }",
        f"http-after-response set-header {ANSWERED} {UNAVAILABLE} if {{ status 502 503 504 }} "
        f"!{{ res.hdr({ANSWERED}) -m found }} !{{ var(txn.by_app) -m found }}",
        "",
        *class_route_lines(service, plan.run_folder),
    ]
    return f"frontend {word(FRONTEND + service.name)}", lines


def gate_lines() -> list[str]:
    """What no request may ask for, from outside or inside."""
    return [
        "# Headway's own paths are not for the outside, however they are spelt; neither are tunnels.",
        "http-request deny status 404 default-errorfiles if { path,url_dec -m sub /-headway/ }",
        "http-request deny status 405 default-errorfiles if { method CONNECT }",
        "# Ambiguous framing is refused by HAProxy's parser, all but this.",
        "http-request deny status 400 default-errorfiles if { req.ver 1.0 } { req.hdr(transfer-encoding) -m found }",
    ]


def patience_lines(service: EdgeService, cls: EdgeClass) -> list[str]:
    """In a backend: a call may have less time than its class; its moment is told to the worker, which looks at it."""
    if not service.called_at:
        return []
    deadline_ms = max(1, round(cls.deadline_s * 1000))
    return [
        "# A call ends with its caller's patience, where that is shorter; the queue itself knows the class's alone,",
        "# but lets go who has hung up, and the worker begins nothing that is over.",
        f"http-request set-var(txn.wait) int({deadline_ms})",
        f"http-request set-var(txn.wait) var(txn.left) if {{ var(txn.left) -m int lt {deadline_ms} }}",
        "http-request set-var(txn.due) var(txn.begun),add(txn.wait)",
        "http-request set-timeout server var(txn.wait) if { var(txn.left) -m found }",
        "option abortonclose",
    ]


def level_lines(service: EdgeService, cls: EdgeClass) -> list[str]:
    """In a backend: how critical a request is, where calls say so, or where its worker is to pass it on."""
    if not is_levelled(service):
        return []
    lines = [
        "# How critical it is: 0 critical_plus, 1 critical, 2 sheddable_plus, 3 sheddable. As the caller says, else as",
        "# declared; what a request says by its Priority header can only make it less so.",
        f"http-request set-var(txn.level) int({cls.level})",
    ]
    if service.called_at:
        lines.append("http-request set-var(txn.level) var(txn.said_level) if { var(txn.said_level) -m found }")
    for urgency, level in (LATER, LAST):
        lines.append(
            f"http-request set-var(txn.level) int({level}) if {{ req.hdr(priority) -m str {urgency} }} "
            f"{{ var(txn.level) -m int lt {level} }}"
        )
    if service.calls:
        lines += [
            "# The worker passes it on with the calls that it makes for this request.",
            f"http-request set-header {CRITICALITY} %[var(txn.level)]",
        ]
    return [*lines, ""]


def is_levelled(service: EdgeService) -> bool:
    """Whether each request of the service has a level of its own."""
    return bool(service.called_at) or service.calls


def public_lines(plan: EdgePlan, scheme: str) -> list[str]:
    """In the frontend for the outside, where some of its backends take calls as well."""
    if not plan.has_calls:
        return []
    return [
        "# Backends that take calls too are told here who asks.",
        f'http-request set-var-fmt(txn.from) "{scheme} %[src] %[src_port]"',
    ]


def connection_lines(plan: EdgePlan) -> list[str]:
    """How many connections from outside there may be, so that a flood of them leaves room for calls."""
    return ["# The rest is for calls between services.", f"maxconn {plan.connections_max}"] if plan.has_calls else []


def repeat_lines(service: EdgeService) -> list[str]:
    """In a backend: who counts its attempts repeats by itself."""
    if not service.called_at:
        return []
    return [
        "# Who counts its attempts repeats by itself, within a budget: then nothing is repeated here once it was sent.",
        "http-request disable-l7-retry if { var(txn.attempt) -m found }",
    ]


def silence_line(service: EdgeService) -> str:
    """How long an event stream may say nothing, whatever its caller's patience with other answers."""
    return f"http-request set-timeout server {milliseconds(service.silence_max_s)} if {{ var(txn.stays) -m found }}"
