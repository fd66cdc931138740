"""What waits for a replica, in which order, and what is refused at once: the rules of one class's backend.

A queue without a bound makes everybody late; one bound for all lets the unimportant crowd out the important. So each
class has a bound, which those of low criticality reach sooner. The figures change ten times a second and must not cost
a reload: they are variables of the HAProxy process, set through its run-time API, and `global` begins with the last.

A rule that refuses only marks the request, by tracking the class in the table `headway.refused`, which counts, and one
more rule answers 503 to what is marked. Where nothing is to be refused (overload = "observe") there are no rules at
all: requests are answered as they come, and `headway.edge.unrefused` counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from headway.edge.words import word
from headway.model.edge import EdgeClass, EdgeService
from headway.model.overload import FIRST_AT, MAIN, SLOW, QueueBound, class_name

REFUSED = "headway.refused"
DEMOTED = "headway.demoted"

# Counters that a request may hold: 0 = its client, for `client_rate`; 1 = its client, under overload; 2 = the class,
# when the request is less critical than the class; 3 = the class, when the request is refused.
STICK_COUNTERS = 4
CLIENTS_MAX = 100_000
CLIENT_EXPIRES_S = 5  # whoever was silent for so long is no active client any more

# Of the queue, what each level compares with the bound: critical_plus may fill it twice, critical once, sheddable_plus
# to three quarters, sheddable to the half. Rules come after `waits`, so that one may wait whatever the bound.
FILLED = (2.0, 1.0, 0.75, 0.5)
_FILLED = ("queue,div(2)", "queue", "queue,mul(4),div(3)", "queue,mul(2)")

# RFC 9218: u=0 to u=7, 3 when nothing is said. What a client says of itself can only make it less important.
_LATER = ("u=4 u=5", 2)
_LAST = ("u=6 u=7", 3)

_FIELDS = ("overloaded", "newest_first", "client_per_s", "floor_per_s", "queue_max")
_SET = re.compile(r"^\s*set-var proc\.([a-z_]+)\.(main|slow|at\d+)\.([a-z0-9._]+) int\((\d+)\)", re.MULTILINE)


def variable(field: str, service: str, number: int) -> str:
    """The variable of a class: proc.queue_max.main.web. A name there has letters, digits, dot and underscore only, and
    a service's name has no dot, so that a dot for each dash keeps names apart."""
    ending = "main" if number == MAIN else class_name("", number)[1:]
    return f"proc.{field}.{ending}.{service.replace('-', '.')}"


def variables(service: str, number: int, bound: QueueBound) -> dict[str, int]:
    """All variables of a class with their values. Floor and fairness are in force under overload alone."""
    values = {
        "overloaded": int(bound.overloaded),
        "newest_first": int(bound.newest_first),
        "client_per_s": bound.client_per_s if bound.overloaded else 0,
        "floor_per_s": bound.floor_per_s if bound.overloaded else 0,
        "queue_max": max(0, bound.queue_max),
    }
    return {variable(field, service, number): value for field, value in values.items()}


def variable_lines(services: tuple[EdgeService, ...]) -> list[str]:
    """Lines of `global`. HAProxy looks variables up one after the other: those that each request asks for come first,
    and those that only waiting or demoted requests need come last."""
    values = {
        name: value
        for service in services
        for cls in classes(service)
        for name, value in variables(service.name, cls.number, cls.bound).items()
    }
    order = {field: at for at, field in enumerate(_FIELDS)}
    return [
        f"set-var {name} int({value})"
        for name, value in sorted(values.items(), key=lambda item: order[item[0].split(".")[1]])
    ]


def read_bounds(text: str) -> dict[tuple[str, int], QueueBound]:
    """The bounds that a file holds, by service and class: what `variable_lines` wrote, the other way round."""
    values: dict[tuple[str, int], dict[str, int]] = {}
    for field, ending, service, value in _SET.findall(text):
        number = MAIN if ending == "main" else SLOW if ending == "slow" else int(ending[2:]) + FIRST_AT - 1
        values.setdefault((service.replace(".", "-"), number), {})[field] = int(value)
    return {
        key: QueueBound(
            queue_max=found["queue_max"],
            overloaded=bool(found["overloaded"]),
            newest_first=bool(found["newest_first"]),
            floor_per_s=found["floor_per_s"],
            client_per_s=found["client_per_s"],
        )
        for key, found in values.items()
        if found.keys() >= set(_FIELDS)
    }


def classes(service: EdgeService) -> Iterator[EdgeClass]:
    """All classes of a service, the main one, which the service itself is, first."""
    yield EdgeClass(MAIN, (), service.replicas, service.deadline_s, service.level, service.bound)
    yield from service.classes


def queue_lines(service: EdgeService, cls: EdgeClass) -> list[str]:
    """The rules of a backend that decide about its queue; they come after the cookie of a sticky service."""
    if not service.refuses:
        return ['# overload = "observe": nothing is refused, and who came first goes first.']

    def proc(field: str) -> str:
        return variable(field, service.name, cls.number)

    demotes = [(urgency, level) for urgency, level in (_LATER, _LAST) if level > cls.level]
    first = 0 if cls.level else -1  # before the critical_plus as well
    waits = "waits occupied" if service.sticky else "waits"
    refused = f"http-request track-sc3 be_name table {REFUSED}"
    lines: list[str] = []
    if demotes:
        lines += [
            "# Who goes first in the queue: 0 critical_plus, 1 critical, 2 sheddable_plus, 3 sheddable. A client can",
            "# put itself behind others by its Priority header, never before them.",
            *([f"http-request set-priority-class int({cls.level})"] if cls.level else []),
            *(
                f"http-request set-priority-class int({level}) if {{ req.hdr(priority) -m str {urgency} }}"
                for urgency, level in demotes
            ),
            "# Of those behind, so many a second go first, or they would never come to their turn under overload.",
            f"http-request track-sc2 be_name table {DEMOTED} if {{ prio_class gt {cls.level} }} "
            f"{{ var({proc('floor_per_s')}) -m int gt 0 }}",
            "http-request set-var(txn.demoted_per_s) sc_http_req_rate(2) if { sc_tracked(2) }",
            f"http-request set-priority-class int({first}) if {{ sc_tracked(2) }} "
            f"{{ rand,mod(txn.demoted_per_s),sub({proc('floor_per_s')}) lt 0 }}",
        ]
    lines += [
        "# The newest goes first under overload: it has the longest time left, and the oldest is given up first.",
        f"http-request set-priority-offset date(0,ms),mod(250000),mul(2),neg if {{ var({proc('newest_first')})"
        " -m int gt 0 }",
        "# Clients and their rates are known under overload only; of IPv6 the /64 counts, which one client owns.",
        f"stick-table type ipv6 size {CLIENTS_MAX} expire {CLIENT_EXPIRES_S}s store gpc0,gpc0_rate(1s)",
        f"http-request track-sc1 src,ipmask(32,64) if {{ var({proc('overloaded')}) -m int gt 0 }}",
        "",
        "# Refused at once, instead of late: above the bound, which the less important reach sooner, and a client that",
        "# takes more than its share. Only requests that would have to wait.",
        "acl waits queue gt 0",
    ]
    if service.sticky:
        cookie = word(f"headway-{service.name}")
        lines += ["acl occupied be_conn_free le 0", f"acl occupied req.cook({cookie}),srv_queue gt 0"]
    levels = sorted({cls.level, *(level for _, level in demotes), *([0] if demotes else [])})
    for level in levels:
        mine = f" {{ prio_class {level} }}" if len(levels) > 1 else ""
        lines.append(f"{refused} if {waits}{mine} {{ {_FILLED[level]},sub({proc('queue_max')}) ge 0 }}")
    if demotes and first < 0:
        lines.append(f"{refused} if {waits} {{ prio_class lt 0 }} {{ queue,div(3),sub({proc('queue_max')}) ge 0 }}")
    share = f"{{ sc_gpc0_rate(1),sub({proc('client_per_s')}) ge 0 }}"
    lines.append(f"{refused} if {waits} {{ sc_tracked(1) }} {{ var({proc('client_per_s')}) -m int gt 0 }} {share}")
    lines += [
        "http-request return status 503 default-errorfiles if { sc_tracked(3) }",
        "http-request sc-inc-gpc0(1) if { sc_tracked(1) }",
    ]
    return lines


def tables() -> list[tuple[str, list[str]]]:
    """Backends that hold nothing but a table: name and lines. Their entries never expire."""
    return [
        (REFUSED, ["# Requests that were refused, by class.", _table("http_req_cnt")]),
        (DEMOTED, ["# Less critical requests of the last second, by class.", _table("http_req_rate(1s)")]),
    ]


def _table(store: str) -> str:
    return f"stick-table type string len 48 size 1k store {store}"
