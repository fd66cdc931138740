"""Reads HAProxy's own answers, whatever columns surround the ones that count."""

from __future__ import annotations

import pytest

from headway.edge.observed import read_info, read_stat
from headway.model.overload import EdgeQueue

# fmt: off
NAMES = (
    "pxname", "svname", "qcur", "scur", "slim", "stot", "dreq", "ereq", "econ", "wretr", "status", "hrsp_4xx",
    "hrsp_5xx", "req_rate", "req_tot", "check_status", "srv_icur", "unknown",
)
# fmt: on


def table(*rows: dict[str, object]) -> str:
    lines = ["# " + ",".join(NAMES) + ","]
    lines += [",".join(str(row.get(name, "")) for name in NAMES) + "," for row in rows]
    return "\n".join(lines) + "\n\n"


def server(**values: object) -> dict[str, object]:
    return {"pxname": "web", "svname": "web.1", "qcur": 0, "scur": 0, "slim": 8, "stot": 0, **values}


def test_reads_totals_services_and_replicas() -> None:
    observed = read_stat(
        table(
            {"pxname": "headway.public", "svname": "FRONTEND", "scur": 5, "dreq": 2, "ereq": 1, "req_rate": 7}
            | {"req_tot": 90, "hrsp_5xx": 3},
            # Calls between services count as connections alone.
            {"pxname": "headway.call.stock", "svname": "FRONTEND", "scur": 4, "req_rate": 5, "req_tot": 60}
            | {"dreq": 1, "ereq": 1, "hrsp_5xx": 1},
            {"pxname": "headway.unrouted", "svname": "BACKEND", "status": "UP", "qcur": 0},
            server(status="UP", scur=4, qcur=1, stot=50, hrsp_4xx=2, hrsp_5xx=1, wretr=6, econ=3, srv_icur=2)
            | {"check_status": "* L7OK"},
            {"pxname": "web", "svname": "BACKEND", "status": "UP", "scur": 4, "qcur": 9, "stot": 70, "hrsp_5xx": 2},
        )
    )
    totals = observed.totals
    assert (totals.connections, totals.requests, totals.requests_per_s, totals.denied) == (9, 90, 7, 2)
    assert (totals.malformed, totals.queued, totals.answers_5xx) == (1, 10, 3)
    (web,) = observed.classes
    assert (web.service, web.number, web.up, web.in_flight, web.requests, web.answers_5xx) == ("web", 0, True, 4, 70, 2)
    assert web.queued == 10  # nine wait for any replica, one for its own
    (replica,) = observed.replicas
    assert (replica.service, replica.name, replica.admin, replica.operational) == ("web", "web.1", "ready", "up")
    assert (replica.in_flight, replica.queued, replica.limit, replica.requests) == (4, 1, 8, 50)
    assert (replica.answers_4xx, replica.answers_5xx, replica.retries, replica.connect_errors) == (2, 1, 6, 3)
    assert (replica.idle_connections, replica.check) == (2, "L7OK")


@pytest.mark.parametrize(
    ("status", "admin", "operational"),
    [
        ("UP", "ready", "up"),
        ("UP 1/2", "ready", "up"),
        ("DOWN", "ready", "down"),
        ("DOWN 1/2", "ready", "down"),
        ("DRAIN", "drain", "up"),
        ("DRAIN 1/2", "drain", "up"),
        ("MAINT", "maint", "down"),
        ("no check", "ready", "up"),
    ],
)
def test_tells_what_was_ordered_from_what_was_found(status: str, admin: str, operational: str) -> None:
    (replica,) = read_stat(table(server(status=status))).replicas
    assert (replica.admin, replica.operational) == (admin, operational)


@pytest.mark.parametrize("text", ["", "Unknown command: 'show stat'", "Permission denied\n"])
def test_refuses_what_is_no_answer(text: str) -> None:
    with pytest.raises(ValueError, match="not an answer"):
        read_stat(text)
    with pytest.raises(ValueError, match="not an answer"):
        read_info(text)


def test_an_answer_that_breaks_off_is_none_or_read_as_far_as_it_goes() -> None:
    """HAProxy may be killed at any byte of it."""
    whole = table(server(status="UP", scur=4), {"pxname": "web", "svname": "BACKEND", "status": "UP", "qcur": 9})
    breaks_off = 0
    for end in range(len(whole)):
        try:
            assert len(read_stat(whole[:end]).replicas) <= 1
        except ValueError:
            breaks_off += 1
    assert breaks_off > len(whole) / 2


def test_reads_the_process() -> None:
    text = (
        "Name: HAProxy\nVersion: 2.8.25-5cf5d0683\nPid: 77\nUptime_sec: 12\nMaxconn: 100\nCurrConns: 3\nStopping: 1\n"
    )
    process = read_info(text)
    assert (process.pid, process.version, process.uptime_s) == (77, "2.8.25", 12)
    assert (process.connections_max, process.connections, process.stopping) == (100, 3, True)


def test_reads_what_each_class_refused_and_who_its_clients_are() -> None:
    text = table(
        server(status="UP", scur=2),
        {"pxname": "web", "svname": "BACKEND", "status": "UP", "scur": 3, "qcur": 1, "stot": 70},
        server(pxname="my-api.slow", svname="my-api.1", status="UP", scur=5, qcur=2),
        server(pxname="my-api.slow", svname="my-api.2", status="UP", scur=1),
        {"pxname": "my-api.slow", "svname": "BACKEND", "status": "UP", "scur": 9, "qcur": 1, "stot": 20},
        {"pxname": "headway.refused", "svname": "BACKEND", "status": "UP", "qcur": 0},
    )
    text += """
# table: headway.refused, type: string, size:1024, used:1
# table: my-api.slow, type: ipv6, size:102400, used:12
# table: web, type: ipv6, size:102400, used:0

# table: headway.refused, type: string, size:1024, used:1
0x1a494af8: key=my-api.slow use=0 exp=0 shard=0 http_req_cnt=4

"""
    observed = read_stat(text)
    assert [(state.service, state.number, state.name) for state in observed.replicas] == [
        ("web", 0, "web.1"),
        ("my-api", 1, "my-api.1"),
        ("my-api", 1, "my-api.2"),
    ]
    assert observed.queues() == {
        ("web", 0): EdgeQueue(queued=1, in_flight=2, requests=70),
        ("my-api", 1): EdgeQueue(queued=3, in_flight=6, requests=20, refused=4, clients=12),
    }
    assert observed.totals.queued == 4
