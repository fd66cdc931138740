"""What HAProxy says about itself, as typed nouns. Pure: reads the text of `show stat`, `show table` and `show info`.

Columns are found by the names in the first line, so that another 2.x, which has more of them, is read as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from typing import Literal

from headway.edge.calls import FRONTEND
from headway.edge.queues import REFUSED
from headway.model.overload import EdgeQueue, class_name, class_of

Admin = Literal["ready", "drain", "maint"]
Operational = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class EdgeServerState:
    """One replica in one class as HAProxy sees it now.

    Counters grow from HAProxy's start, or from when the replica was added.
    """

    service: str
    number: int  # of the class
    name: str
    admin: Admin
    operational: Operational
    in_flight: int
    queued: int
    limit: int
    requests: int
    answers_4xx: int
    answers_5xx: int
    retries: int
    connect_errors: int
    idle_connections: int
    check: str  # "L7OK", "L4CON", "L7TOUT", "INI", or empty while not checked


@dataclass(frozen=True, slots=True)
class EdgeClassState:
    """One class of a service over all its replicas; `queued` wait for any or for one, and are `in_flight` too."""

    service: str
    number: int  # of the class
    up: bool
    in_flight: int
    queued: int
    requests: int
    answers_5xx: int
    refused: int = 0  # by the rules of its queue; where nothing is refused: what would have been
    clients: int = 0  # addresses seen in the last seconds, while it is overloaded


@dataclass(frozen=True, slots=True)
class EdgeTotals:
    """The edge as a whole; requests are those from outside, without calls between services. `denied` counts requests
    refused by a rule (rate, size, malformed)."""

    connections: int
    requests: int
    requests_per_s: int
    denied: int
    malformed: int
    queued: int
    answers_5xx: int


@dataclass(frozen=True, slots=True)
class EdgeObserved:
    """Everything one poll tells."""

    totals: EdgeTotals
    classes: tuple[EdgeClassState, ...]
    replicas: tuple[EdgeServerState, ...]  # once for each class that has it

    def queues(self) -> dict[tuple[str, int], EdgeQueue]:
        """By service and class; in flight is what the replicas have, without what waits for them."""
        in_flight: Counter[tuple[str, int]] = Counter()
        for state in self.replicas:
            in_flight[state.service, state.number] += state.in_flight
        return {
            (cls.service, cls.number): EdgeQueue(
                queued=cls.queued,
                in_flight=in_flight[cls.service, cls.number],
                requests=cls.requests,
                refused=cls.refused,
                clients=cls.clients,
            )
            for cls in self.classes
        }


@dataclass(frozen=True, slots=True)
class EdgeProcess:
    """The HAProxy process that answers."""

    pid: int
    version: str
    uptime_s: int
    connections_max: int
    connections: int
    stopping: bool


# fmt: off
_PICKED = (
    "pxname", "svname", "status", "scur", "qcur", "slim", "stot", "hrsp_4xx", "hrsp_5xx", "wretr", "econ", "srv_icur",
    "check_status", "dreq", "ereq", "req_tot", "req_rate",
)
# fmt: on


@lru_cache(maxsize=4)
def _columns(header: str) -> Callable[[Sequence[str]], tuple[str, ...]]:
    names = header.removeprefix("# ").split(",")
    return itemgetter(*(names.index(name) for name in _PICKED))


def read_stat(text: str) -> EdgeObserved:
    """The answer of `show stat -1 7 -1`, and of `show table` where that follows. ValueError when it is none."""
    lines = text.strip().split("\n")
    if not lines[0].startswith("# pxname,"):
        raise ValueError(f"not an answer to `show stat`: {lines[0][:80]!r}")
    pick = _columns(lines[0])
    frontends: list[Sequence[str]] = []
    found: list[EdgeClassState] = []
    replicas: list[EdgeServerState] = []
    for at, line in enumerate(lines[1:], start=1):
        if not line:
            found = _with_tables(found, lines[at:])
            break
        try:
            row = pick(line.split(","))
        except IndexError:  # it died while it answered
            raise ValueError(f"an answer to `show stat` that breaks off: {line[-80:]!r}") from None
        proxy, name, status = row[0], row[1], row[2]
        if name == "FRONTEND":
            frontends.append(row)
        elif proxy.startswith("headway."):
            continue
        elif name == "BACKEND":
            counts = (_number(row[column]) for column in (3, 4, 6, 8))
            found.append(EdgeClassState(*class_of(proxy), status.startswith("UP"), *counts))
        else:
            replicas.append(_replica(row))
    # Who sticks to a replica waits for it, and is not counted where others wait for any.
    stuck: Counter[tuple[str, int]] = Counter()
    for state in replicas:
        stuck[state.service, state.number] += state.queued
    found = [replace(cls, queued=cls.queued + stuck[cls.service, cls.number]) for cls in found]
    outside = [row for row in frontends if not row[0].startswith(FRONTEND)]
    totals = EdgeTotals(
        connections=sum(_number(row[3]) for row in frontends),
        requests=sum(_number(row[15]) for row in outside),
        requests_per_s=sum(_number(row[16]) for row in outside),
        denied=sum(_number(row[13]) for row in outside),
        malformed=sum(_number(row[14]) for row in outside),
        queued=sum(cls.queued for cls in found),
        answers_5xx=sum(_number(row[8]) for row in outside),
    )
    return EdgeObserved(totals, tuple(found), tuple(replicas))


_TABLE = re.compile(r"# table: (\S+), type: \w+, size:\d+, used:(\d+)")
_REFUSED = re.compile(r"\bkey=(\S+) .*\bhttp_req_cnt=(\d+)")


def _with_tables(found: Iterable[EdgeClassState], lines: Iterable[str]) -> list[EdgeClassState]:
    """What `show table; show table headway.refused` adds: how many clients a class has, and what it refused."""
    clients: dict[str, int] = {}
    refused: dict[str, int] = {}
    table = ""
    for line in lines:
        if head := _TABLE.match(line):
            table, clients[head[1]] = head[1], int(head[2])
        elif table == REFUSED and (entry := _REFUSED.search(line)):
            refused[entry[1]] = int(entry[2])
    told = []
    for cls in found:
        name = class_name(cls.service, cls.number)
        told.append(replace(cls, refused=refused.get(name, 0), clients=clients.get(name, 0)))
    return told


def _replica(row: Sequence[str]) -> EdgeServerState:
    status = row[2]
    admin: Admin = "maint" if "MAINT" in status else "drain" if "DRAIN" in status else "ready"
    down = admin == "maint" or status.startswith("DOWN")
    service, number = class_of(row[0])
    return EdgeServerState(
        service=service,
        number=number,
        name=row[1],
        admin=admin,
        operational="down" if down else "up",
        in_flight=_number(row[3]),
        queued=_number(row[4]),
        limit=_number(row[5]),
        requests=_number(row[6]),
        answers_4xx=_number(row[7]),
        answers_5xx=_number(row[8]),
        retries=_number(row[9]),
        connect_errors=_number(row[10]),
        idle_connections=_number(row[11]),
        check=row[12].removeprefix("* "),
    )


def _number(text: str) -> int:
    return int(text) if text else 0


def read_info(text: str) -> EdgeProcess:
    """The answer of `show info`. ValueError when it is none."""
    values = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    try:
        return EdgeProcess(
            pid=int(values["Pid"]),
            version=values["Version"].partition("-")[0],
            uptime_s=int(values["Uptime_sec"]),
            connections_max=int(values["Maxconn"]),
            connections=int(values["CurrConns"]),
            stopping=values.get("Stopping", "0") != "0",
        )
    except KeyError as error:
        raise ValueError(f"not an answer to `show info`: {error} is missing") from error
