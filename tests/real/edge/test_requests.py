"""What a request meets on its way in: routes, headers, sizes, rates, and the edge's own answers."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from edge_site import Site, until

from headway.edge.access_log import parse_line


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        web = site.service("web")
        api = site.service("api", routes=("/api", "api.example.com", "both.example.com/v2"), body_max_bytes=1000)
        empty = site.service("empty", count=0, routes=("/empty",))
        site.start(site.plan(web, api, empty, header_timeout_s=30.0, idle_timeout_s=60.0))
        yield site


@pytest.fixture(scope="module")
def impatient() -> Iterator[Site]:
    """An edge that waits for a request no longer than a moment. Whoever is held up when it asks is ended as well."""
    with Site() as site:
        site.start(site.plan(site.service("api", body_max_bytes=1000), header_timeout_s=0.6, idle_timeout_s=60.0))
        yield site


def arrived(site: Site, path: str, **settings: object) -> dict[str, str]:
    """The headers with which a GET of `path` reaches its replica, names in lower case."""
    answer = httpx.get(site.url + path, **settings)  # type: ignore[arg-type]
    return {name.lower(): value for name, value in answer.json()["headers"]}


@pytest.mark.parametrize(
    ("host", "path", "service"),
    [
        ("x", "/", "web"),
        ("x", "/api", "api"),
        ("x", "/api/", "api"),
        ("x", "/api?page=2", "api"),
        ("x", "/api/deep/er", "api"),
        ("x", "/apix", "web"),
        ("x", "/API", "web"),
        ("x", "/prefix/api", "web"),
        ("api.example.com", "/anything", "api"),
        ("API.example.com:8443", "/", "api"),
        ("not-api.example.com", "/", "web"),
        ("both.example.com", "/v2/x", "api"),
        ("both.example.com", "/v20", "web"),
    ],
)
def test_routes_by_host_and_whole_path_segments(site: Site, host: str, path: str, service: str) -> None:
    answer = httpx.get(site.url + path, headers={"Host": host})
    assert answer.json()["replica"] == f"{service}.1"


def test_says_when_no_service_has_the_route() -> None:
    with Site() as site:
        site.start(site.plan(site.service("api", routes=("/api",))))
        answer = httpx.get(site.url + "/other")
        assert (answer.status_code, answer.text) == (404, "No service has a route for this address.\n")
        assert answer.headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    "path", ["/-headway/alive", "/%2dheadway/alive", "/%2Dheadway%2Falive", "//-headway/alive", "/x/../-headway/alive"]
)
def test_hides_the_paths_of_the_workers_own_server(site: Site, path: str) -> None:
    before = len(site.recorded())
    answer = site.raw(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert len(site.recorded()) == before


def test_a_service_without_replicas_answers_503_and_when_to_come_again(site: Site) -> None:
    answer = httpx.get(site.url + "/empty")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "text/plain"
    assert len(answer.text) < 200


def test_strips_what_only_headway_or_a_trusted_proxy_may_say(site: Site) -> None:
    forged = {
        "X-Headway-Deadline-Ms": "1",
        "X-Headway-From": "https 6.6.6.6 1",
        "x-headway-criticality": "high",
        "Baggage": "a=b",
        "Forwarded": "for=6.6.6.6",
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil",
        "X-Forwarded-Prefix": "/evil",
        "X-Real-IP": "6.6.6.6",
        "X-Request-ID": "forged",
        "X_Forwarded_For": "6.6.6.6",
    }
    got = arrived(site, "/", headers={**forged, "Host": "shop.example", "X-Mine": "kept"})
    assert {name: got.get(name) for name in ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host")} == {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "shop.example",
    }
    assert got["x-forwarded-port"] == str(site.port)
    assert got["x-mine"] == "kept"
    assert got["x-request-id"] != "forged"
    assert not {"baggage", "forwarded", "x-real-ip", "x-forwarded-prefix", "x_forwarded_for"} & got.keys()
    assert [name for name in got if name.startswith("x-headway-")] == ["x-headway-from"]
    asked = re.fullmatch(r"http 127\.0\.0\.1 \d+ - 0 (\d+)", got["x-headway-from"])
    assert asked
    assert 0 < int(asked[1]) / 1000 - time.time() <= 10.0  # the deadline of this service
    assert list(got)[-1] == "x-headway-from"


def test_gives_every_request_an_id_and_a_trace(site: Site) -> None:
    answers = [httpx.get(site.url) for _ in range(20)]
    headers = [{name.lower(): value for name, value in answer.json()["headers"]} for answer in answers]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 20
    for answer, got in zip(answers, headers, strict=True):
        assert got["x-request-id"] == answer.headers["x-request-id"]
        assert re.fullmatch(rf"00-{got['x-request-id']}-[0-9a-f]{{16}}-01", got["traceparent"])


def test_keeps_a_valid_trace_and_replaces_an_invalid_one(site: Site) -> None:
    valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert arrived(site, "/", headers={"traceparent": valid})["traceparent"] == valid
    for invalid in ("hello", valid + "\u0020x", valid.upper(), "00-" + "g" * 32 + "-00f067aa0ba902b7-01"):
        assert arrived(site, "/", headers={"traceparent": invalid})["traceparent"] != invalid


def test_refuses_a_body_that_is_announced_too_large(site: Site) -> None:
    before = len(site.recorded())
    assert httpx.post(site.url + "/api", content=b"x" * 1000).status_code == 200
    answer = httpx.post(site.url + "/api", content=b"x" * 1001)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "text/plain")
    assert len(site.recorded()) == before + 1


def test_takes_fifteen_kilobytes_of_headers(site: Site) -> None:
    assert httpx.get(site.url, headers={"X-Large": "x" * 14_000}).status_code == 200


def test_ends_a_client_that_sends_its_headers_too_slowly(impatient: Site) -> None:
    begun = time.monotonic()
    assert impatient.raw(b"GET / HTTP/1.1\r\nHost: a\r\n").startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begun < 30


def test_a_small_body_that_trickles_occupies_no_replica(impatient: Site) -> None:
    answer = impatient.raw(b"POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nfour")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert impatient.recorded() == []
    assert impatient.api.replicas("api")[0].in_flight == 0


def test_an_expected_continue_is_answered(site: Site) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"hello")
        assert b"HTTP/1.1 200" in connection.recv(4096)


def test_refuses_tunnels(site: Site) -> None:
    answer = site.raw(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 405 ")


@pytest.fixture
def unasked() -> Iterator[Site]:
    """An edge that nobody has asked anything: no late line of an earlier request is in its log."""
    with Site() as site:
        site.start(site.plan(site.service("web"), site.service("api", routes=("/api",))))
        yield site


def test_logs_one_json_line_a_request_without_its_query(unasked: Site) -> None:
    site = unasked
    answer = httpx.get(site.url + "/api/slow?token=secret")
    assert httpx.get(site.url + "/slow/120").status_code == 200
    site.raw(b'GET /q"uo\\te{\x7f} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
    site.raw(b'GET /q"uo\\te{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
    site.raw(b"nonsense\r\n\r\n")
    lines = until(lambda: len(site.log_lines()) == 5 and site.log_lines(), "five lines are logged")
    first, slow, _, quoted, nonsense = sorted((json.loads(line) for line in lines), key=lambda line: line["time"])
    assert first["queue_ms"] <= first["total_ms"]
    assert first | {"time": 0, "total_ms": 0, "ttfb_ms": 0, "queue_ms": 0, "bytes": 0} == {
        "time": 0,
        "client": "127.0.0.1",
        "method": "GET",
        "path": "/api/slow",
        "status": 200,
        "service": "api",
        "replica": "api.1",
        "queue_ms": 0,
        "ttfb_ms": 0,
        "total_ms": 0,
        "bytes": 0,
        "end": "--",
        "id": answer.headers["x-request-id"],
        "caller": "",
        "attempt": 1,
        "trace": first["trace"],
        "answered": "-",
    }
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", first["trace"])
    assert all(abs(line["time"] / 1000 - time.time()) < 100 for line in (first, slow, quoted, nonsense))
    assert 119 <= slow["ttfb_ms"] <= slow["total_ms"] + 2
    assert quoted["path"] == '/q"uo\\te{}'
    assert nonsense["status"] == 400
    assert all(parse_line(line) is not None for line in lines)


def test_limits_the_rate_of_one_client() -> None:
    with Site() as site:
        site.start(site.plan(site.service(), client_rate_per_s=20.0))
        with httpx.Client() as client:
            begun = time.monotonic()
            answers = [client.get(site.url) for _ in range(1000)]
            took_s = time.monotonic() - begun
            refused = [answer for answer in answers if answer.status_code == 429]
            assert {answer.status_code for answer in answers} == {200, 429}
            assert refused[0].headers["retry-after"] == "1"
            assert len(site.recorded()) == 1000 - len(refused)
            # A client that goes on too fast still gets about its rate.
            assert 20 <= len(site.recorded()) <= 20 * (took_s + 2)
            until(lambda: client.get(site.url).status_code == 200, "the rate has fallen again")


def test_a_full_queue_ends_at_the_deadline_with_503() -> None:
    with Site() as site:
        site.start(site.plan(site.service(limit=1, deadline_s=0.4)))
        with socket.create_connection(("127.0.0.1", site.port)) as busy:
            # An event stream may hold its place for longer than the deadline.
            busy.sendall(b"GET /slow/100000 HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
            until(lambda: site.api.replicas()[0].in_flight == 1, "the replica is busy")
            begun = time.monotonic()
            answer = httpx.get(site.url)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert 0.3 < time.monotonic() - begun < 50


def test_nobody_waits_for_an_answer_beyond_the_deadline() -> None:
    with Site() as site:
        site.start(site.plan(site.service(deadline_s=0.4)))
        begun = time.monotonic()
        assert httpx.get(site.url + "/slow/100000", timeout=90).status_code == 504
        assert 0.3 < time.monotonic() - begun < 50


def test_streams_and_tunnels_outlive_idle_timeout_and_deadline() -> None:
    with Site() as site:
        site.start(site.plan(site.service(deadline_s=1.5), idle_timeout_s=1.5))
        accept = {"Accept": "text/event-stream"}
        with httpx.stream("GET", site.url + "/stream/3500", timeout=60, headers=accept) as answer:
            assert answer.read() == b"data: 1\n\ndata: 2\n\n"
        with socket.create_connection(("127.0.0.1", site.port), timeout=60) as tunnel:
            tunnel.sendall(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            assert b" 101 " in tunnel.recv(1000)
            time.sleep(3.5)  # longer than every timeout but the tunnel's
            tunnel.sendall(b"still here")
            assert tunnel.recv(100) == b"still here"


TRUSTING = ("127.0.0.0/8", "10.0.0.0/8")


def test_believes_trusted_proxies_alone() -> None:
    with Site() as site:
        site.start(site.plan(site.service(), trusted=TRUSTING))
        chain = {
            "X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.0.0.7",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "shop.example",
            "X-Request-ID": "from-the-proxy",
            "X-Headway-Deadline-Ms": "1",
        }
        got = arrived(site, "/", headers=chain)
        assert got["x-forwarded-for"] == "6.6.6.6, 203.0.113.9, 10.0.0.7, 127.0.0.1"
        assert (got["x-forwarded-proto"], got["x-forwarded-host"]) == ("https", "shop.example")
        assert got["x-request-id"] == "from-the-proxy"
        assert "x-headway-deadline-ms" not in got
        assert arrived(site, "/")["x-forwarded-for"] == "127.0.0.1"
        until(lambda: len(site.log_lines()) == 2, "both are logged")
        clients = [json.loads(line)["client"] for line in site.log_lines()]
        assert clients == ["203.0.113.9", "127.0.0.1"]


def test_counts_the_rate_of_the_client_behind_the_proxy() -> None:
    with Site() as site:
        site.start(site.plan(site.service(), trusted=TRUSTING, client_rate_per_s=10.0))
        with httpx.Client() as proxy:  # one connection: 30 requests must fit into a second on a busy machine too
            statuses = {
                client: {proxy.get(site.url, headers={"X-Forwarded-For": client}).status_code for _ in range(count)}
                for client, count in (("203.0.113.1", 30), ("203.0.113.2", 3), ("2001:db8::1", 3))
            }
        assert statuses == {"203.0.113.1": {200, 429}, "203.0.113.2": {200}, "2001:db8::1": {200}}


def test_takes_the_proxy_protocol_from_trusted_networks() -> None:
    with Site() as site:
        site.start(site.plan(site.service(), trusted=TRUSTING, proxy_protocol=True))
        site.raw(
            b"PROXY TCP4 203.0.113.5 198.51.100.1 5555 443\r\n"
            b"GET /proxied HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n"
        )
        (request,) = site.recorded()
        headers = dict(request["headers"])
        assert headers["x-forwarded-for"] == "203.0.113.5"
        assert headers["x-forwarded-port"] == "443"
        assert site.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") in (b"",) or len(site.recorded()) == 1
