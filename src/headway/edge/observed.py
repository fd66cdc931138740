"""What HAProxy says about itself, as typed nouns. Pure: reads the text of `show stat` and `show info`.

Columns are found by the names in the first line, so that another 2.x, which has more of them, is read as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Literal

Admin = Literal["ready", "drain", "maint"]
Operational = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class EdgeServerState:
    """One replica as HAProxy sees it now. Counters grow from HAProxy's start, or from when the replica was added."""

    service: str
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
class EdgeServiceState:
    """One service over all its replicas; `queued` waits for any of them."""

    service: str
    up: bool
    in_flight: int
    queued: int
    requests: int
    answers_5xx: int


@dataclass(frozen=True, slots=True)
class EdgeTotals:
    """The edge as a whole. `denied` counts requests refused by a rule (rate, size, malformed)."""

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
    services: tuple[EdgeServiceState, ...]
    replicas: tuple[EdgeServerState, ...]


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
    """The answer of `show stat -1 7 -1`. ValueError when it is none."""
    lines = text.strip().split("\n")
    if not lines[0].startswith("# pxname,"):
        raise ValueError(f"not an answer to `show stat`: {lines[0][:80]!r}")
    pick = _columns(lines[0])
    frontends: list[Sequence[str]] = []
    services: list[EdgeServiceState] = []
    replicas: list[EdgeServerState] = []
    for line in lines[1:]:
        row = pick(line.split(","))
        proxy, name, status = row[0], row[1], row[2]
        if name == "FRONTEND":
            frontends.append(row)
        elif proxy.startswith("headway."):
            continue
        elif name == "BACKEND":
            services.append(
                EdgeServiceState(proxy, status.startswith("UP"), *(_number(row[at]) for at in (3, 4, 6, 8)))
            )
        else:
            replicas.append(_replica(row))
    totals = EdgeTotals(
        connections=sum(_number(row[3]) for row in frontends),
        requests=sum(_number(row[15]) for row in frontends),
        requests_per_s=sum(_number(row[16]) for row in frontends),
        denied=sum(_number(row[13]) for row in frontends),
        malformed=sum(_number(row[14]) for row in frontends),
        queued=sum(service.queued for service in services),
        answers_5xx=sum(_number(row[8]) for row in frontends),
    )
    return EdgeObserved(totals, tuple(services), tuple(replicas))


def _replica(row: Sequence[str]) -> EdgeServerState:
    status = row[2]
    admin: Admin = "maint" if "MAINT" in status else "drain" if "DRAIN" in status else "ready"
    down = admin == "maint" or status.startswith("DOWN")
    return EdgeServerState(
        service=row[0],
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
