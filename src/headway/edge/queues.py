"""What waits for a replica, in which order, and what is refused at once: the rules of one class's backend.

A queue without a bound makes everybody late; one bound for all lets the unimportant crowd out the important. So each
class has a bound, which those of low criticality reach sooner. The figures change ten times a second and must not cost
a reload: they are variables of the HAProxy process, set through its run-time API, and `global` begins with the last.

A rule that refuses only marks the request, by tracking the class in the table `headway.refused`, which counts, and one
more rule answers 503 to what is marked. Where nothing is to be refused (overload = "observe") there are no rules at
all: requests are answered as they come, and `headway.edge.unrefused` counts.

Fairness between clients needs no count of them, for how many there are says nothing of how much they want. A class has
a *level* of requests a second, above which a client is held back. It sinks when a request is refused whose client has
been let in much less often than the one that was let in last, and it rises with each that is let in. So it settles
where the large clients share what the small ones leave (max-min fairness, found by what is refused as in approximate
fair dropping: Pan, Breslau, Prabhakar and Shenker, ACM SIGCOMM CCR 2003). Where all want the same, or one is alone,
nobody is worse off than another, and the level is above them all. HAProxy keeps it, by a few rules that are looked at
under overload alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from headway.edge.calls import IS_CALL, LAST, LATER, is_levelled
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

# Of clients above the level, behind all others: they fill the queue to a quarter, so that there is always room for
# others, and always somebody to take a place that becomes free.
HELD_BACK = len(FILLED)
_FILLED_BY_HELD_BACK = "queue,mul(4)"
PER_KS = 1000  # rates of clients in requests a thousand seconds, for HAProxy calculates in whole numbers
WORSE_OFF = "mul(3),div(2)"  # let in less often than two thirds of another: chance alone makes smaller differences
# A step down takes what 32 requests that are let in give back: about one in 32 then is refused in spite of its share.
SINKS, RISES = "mul(7),div(8)", "mul(257),div(256)"
# The largest client's rate as it was lately: a third of it is forgotten with a hundred requests of others let in. The
# level stays near it, or it would take long to come down to those who take more when others come back.
FADES, ABOVE = "mul(255),div(256)", "mul(3),div(2)"

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


def level_variable(service: str, number: int) -> str:
    """The level of a class, which HAProxy itself moves while the class is overloaded; 0 = none."""
    return variable("level", service, number)


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

    levelled = is_levelled(service)
    demotes = [(urgency, level) for urgency, level in (LATER, LAST) if level > cls.level]
    own = cls.level if demotes or levelled else 0
    first = 0 if cls.level else -1  # before the critical_plus as well
    waits = "waits occupied" if service.sticky else "waits"
    refused = f"http-request track-sc3 be_name table {REFUSED}"
    level = level_variable(service.name, cls.number)
    lines = [
        "# Clients and their rates are known under overload only; of IPv6 the /64 counts, which one client owns.",
        f"stick-table type ipv6 size {CLIENTS_MAX} expire {CLIENT_EXPIRES_S}s store gpc0,gpc0_rate(1s)",
        f"http-request track-sc1 src,ipmask(32,64) if {{ var({proc('overloaded')}) -m int gt 0 }}"
        f"{f' !{IS_CALL}' if service.called_at else ''}",
        f"http-request set-var(txn.rate) sc_gpc0_rate(1),mul({PER_KS}) if {{ sc_tracked(1) }}",
        "# Above the level a client takes more than its share, and is held back.",
        f"acl has_level var({level}) -m int gt 0",
        f"acl above_level var(txn.rate),sub({level}) ge 0",
        "http-request set-var(txn.held_back) bool(true) if { sc_tracked(1) } has_level above_level",
    ]
    if levelled:
        lines += ["", "# Who goes first in the queue.", "http-request set-priority-class var(txn.level)"]
    elif demotes:
        lines += [
            "",
            "# Who goes first in the queue: 0 critical_plus, 1 critical, 2 sheddable_plus, 3 sheddable. A client can",
            "# put itself behind others by its Priority header, never before them.",
            *([f"http-request set-priority-class int({cls.level})"] if cls.level else []),
            *(
                f"http-request set-priority-class int({later}) if {{ req.hdr(priority) -m str {urgency} }}"
                for urgency, later in demotes
            ),
        ]
    if demotes:
        lines += [
            "# Of those behind, so many a second go first, or they would never come to their turn under overload.",
            f"http-request track-sc2 be_name table {DEMOTED} if {{ prio_class gt {cls.level} }} "
            f"{{ var({proc('floor_per_s')}) -m int gt 0 }} !{{ var(txn.held_back) -m found }}",
            "http-request set-var(txn.demoted_per_s) sc_http_req_rate(2) if { sc_tracked(2) }",
            f"http-request set-priority-class int({first}) if {{ sc_tracked(2) }} "
            f"{{ rand,mod(txn.demoted_per_s),sub({proc('floor_per_s')}) lt 0 }}",
        ]
    lines += [
        f"http-request set-priority-class int({HELD_BACK}) if {{ var(txn.held_back) -m found }}",
        "# The newest goes first under overload: it has the longest time left, and the oldest is given up first.",
        f"http-request set-priority-offset date(0,ms),mod(250000),mul(2),neg if {{ var({proc('newest_first')})"
        " -m int gt 0 }",
        "",
        "# Refused at once, instead of late: above the bound, which the less important reach sooner, and whoever takes",
        "# more than its share soonest. Only requests that would have to wait.",
        "acl waits queue gt 0",
    ]
    if service.sticky:
        cookie = word(f"headway-{service.name}")
        lines += ["acl occupied be_conn_free le 0", f"acl occupied req.cook({cookie}),srv_queue gt 0"]
    several = sorted({0, own, *(later for _, later in demotes)})
    if service.called_at:
        several = list(range(len(_FILLED)))  # a call may be made for any request
    filled = {which: _FILLED[which] for which in several} if demotes or levelled else {own: _FILLED[cls.level]}
    filled[HELD_BACK] = _FILLED_BY_HELD_BACK
    for which, compared in filled.items():
        lines.append(f"{refused} if {waits} {{ prio_class {which} }} {{ {compared},sub({proc('queue_max')}) ge 0 }}")
    if demotes and first < 0:
        lines.append(f"{refused} if {waits} {{ prio_class lt 0 }} {{ queue,div(3),sub({proc('queue_max')}) ge 0 }}")
    last, top = variable("let_in", service.name, cls.number), variable("top", service.name, cls.number)
    table = word(class_name(service.name, cls.number))
    # What the less critical do not get is no matter of fairness: those before them would be held back for it.
    asks = f"{{ sc_tracked(3) }} {{ sc_tracked(1) }} {{ prio_class {own} }}"
    return [
        *lines,
        "# The level sinks when a request is refused whose client is worse off than the one that was let in last, as",
        "# long as that one is near it. It rises with each that is let in, to what is above the largest client's rate,",
        "# and begins at all that is done.",
        f"http-request set-var(txn.other_rate) var({last}),table_gpc0_rate({table}),mul({PER_KS}) if {asks}",
        f"acl worse_off var(txn.rate),{WORSE_OFF},sub(txn.other_rate) lt 0",
        f"acl within_reach var(txn.other_rate),mul(2),sub({level}) ge 0",
        f"http-request set-var({level}) var({level}),{SINKS} if {asks} worse_off has_level within_reach "
        f"{{ var({level}) -m int gt {PER_KS} }}",
        f"http-request set-var({top}) var({proc('client_per_s')}),mul({PER_KS}) if {asks} worse_off !has_level",
        f"http-request set-var({level}) var({top}) if {asks} worse_off !has_level",
        "http-request return status 503 default-errorfiles if { sc_tracked(3) }",
        f"http-request set-var({last}) src,ipmask(32,64) if {{ sc_tracked(1) }}",
        f"http-request set-var({level}) var({level}),{RISES} if {{ sc_tracked(1) }} has_level",
        f"http-request set-var({top}) var({top}),{FADES} if {{ sc_tracked(1) }} has_level",
        f"http-request set-var({top}) var(txn.rate) if {{ sc_tracked(1) }} has_level "
        f"{{ var(txn.rate),sub({top}) gt 0 }}",
        f"http-request set-var({level}) var({top}),{ABOVE} if {{ sc_tracked(1) }} has_level "
        f"{{ var({top}),{ABOVE},sub({level}) lt 0 }}",
        "http-request sc-inc-gpc0(1) if { sc_tracked(1) }",
    ]


def tables() -> list[tuple[str, list[str]]]:
    """Backends that hold nothing but a table: name and lines. Their entries never expire."""
    return [
        (REFUSED, ["# Requests that were refused, by class.", _table("http_req_cnt")]),
        (DEMOTED, ["# Less critical requests of the last second, by class.", _table("http_req_rate(1s)")]),
    ]


def _table(store: str) -> str:
    return f"stick-table type string len 48 size 1k store {store}"
