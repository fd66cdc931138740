"""The edge as an app's users and the app itself meet it: routes, addresses, ids, static files, cookies, TLS, bounds."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from harness import Running, free_port, wait_for, whole_lines
from websockets.sync.client import connect

ASGI = """
import json, os, time

async def app(scope, receive, send):
    assert scope["type"] in ("http", "websocket")
    seen = {
        "replica": os.environ["HEADWAY_REPLICA"],
        "client": scope["client"],
        "scheme": scope["scheme"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
    }
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(seen)})
        await receive()  # the client closes it
        return
    while scope["path"] == "/block" and not os.path.exists("go"):
        time.sleep(0.02)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})
"""
WSGI = """
import json, os

def app(environ, start_response):
    start_response("200 OK", [("content-type", "application/json")])
    names = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTPS", "PATH_INFO", "QUERY_STRING")
    seen = {name: environ.get(name) for name in names}
    seen["replica"] = os.environ["HEADWAY_REPLICA"]
    seen["headers"] = [[name, value] for name, value in environ.items() if name.startswith("HTTP_")]
    return [json.dumps(seen).encode()]
"""
PLAIN = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "echo:app"
routes = ["/"]
replicas = 2
sticky = true
static = { "/static" = "static" }
drain_timeout = "1s"
hang_timeout = "5m"
deadline = "5m"
[services.api]
app = "wsgi:app"
routes = ["/api", "api.example.com"]
replicas = 1
threads = 2
[services.admin]
app = "echo:app"
routes = ["admin.example.com", "example.com/admin"]
replicas = 1
"""
SECURE = """
[edge]
bind = ["127.0.0.1:$PORT", "http://127.0.0.1:$HTTP"]
tls = { certificate = "certs/site.pem" }
trusted = ["127.0.0.0/8"]
client_rate = "5/s"
[services.web]
app = "echo:app"
routes = ["/"]
replicas = 1
[services.api]
app = "wsgi:app"
routes = ["/api"]
replicas = 1
"""
FORGED = {
    "x-headway-from": "https 6.6.6.6 6",
    "x-headway-anything": "forged",
    "x-forwarded-for": "6.6.6.6",
    "x-forwarded-proto": "gopher",
    "x-forwarded-host": "evil.example",
    "x-real-ip": "6.6.6.6",
    "forwarded": "for=6.6.6.6",
    "baggage": "forged=1",
    "x-request-id": "forged",
}
REQUEST_ID = re.compile(r"[0-9a-f]{32}")
TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01")


def _write(folder: Path) -> None:
    (folder / "echo.py").write_text(ASGI)
    (folder / "wsgi.py").write_text(WSGI)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("plain")
    _write(folder)
    (folder / "static" / "css").mkdir(parents=True)
    (folder / "static" / "css" / "site.css").write_text("body { color: green }\n")
    (folder / "static" / "large.bin").write_bytes(bytes(range(256)) * 20_000)
    (folder / "secret.txt").write_text("not for you")
    with Running(folder, PLAIN) as running:
        yield running


def _headers(seen: dict[str, Any], name: str) -> list[str]:
    """All values of a header as the app saw them; WSGI's spelling for WSGI's answer."""
    name = "HTTP_" + name.upper().replace("-", "_") if "REMOTE_ADDR" in seen else name
    return [value for key, value in seen["headers"] if key == name]


# -- routes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "path", "service"),
    [
        ("localhost", "/", "web"),
        ("localhost", "/api", "api"),
        ("localhost", "/api/deep?x=1", "api"),
        ("localhost", "/apiary", "web"),
        ("localhost", "/admin", "web"),
        ("api.example.com", "/", "api"),
        ("API.Example.com", "/any", "api"),
        ("admin.example.com", "/", "admin"),
        ("admin.example.com:8000", "/api", "admin"),
        ("example.com", "/admin/users", "admin"),
        ("example.com", "/", "web"),
    ],
)
def test_routes_by_prefix_and_host(plain: Running, host: str, path: str, service: str) -> None:
    seen = httpx.get(plain.url + path, headers={"host": host}).json()
    assert seen["replica"].rpartition(".")[0] == service
    assert seen.get("path", seen.get("PATH_INFO")) == path.partition("?")[0], "passed on unstripped"


# -- what the app sees of who asks -------------------------------------------------------------------------------------


def test_asgi_app_sees_the_client_and_no_forgery(plain: Running) -> None:
    answer = httpx.get(plain.url + "/who?a=b&c=%20", headers=FORGED)
    seen = answer.json()
    assert seen["client"][0] == "127.0.0.1"
    assert 1024 < seen["client"][1] < 65536
    assert (seen["scheme"], seen["query"]) == ("http", "a=b&c=%20")
    assert _headers(seen, "x-forwarded-for") == ["127.0.0.1"]
    assert _headers(seen, "x-forwarded-proto") == ["http"]
    assert _headers(seen, "x-forwarded-host") == [f"127.0.0.1:{plain.port}"]
    assert _headers(seen, "x-forwarded-port") == [str(plain.port)]
    (request_id,) = _headers(seen, "x-request-id")
    assert REQUEST_ID.fullmatch(request_id)
    assert answer.headers["x-request-id"] == request_id
    assert TRACEPARENT.fullmatch(_headers(seen, "traceparent")[0])
    names = {name for name, _value in seen["headers"]}
    assert not [name for name in names if name.startswith("x-headway")]
    assert not names & {"forwarded", "x-real-ip", "baggage"}
    assert not [value for _name, value in seen["headers"] if "6.6.6.6" in value or "evil" in value]


def test_wsgi_app_sees_the_client_and_no_forgery(plain: Running) -> None:
    answer = httpx.get(plain.url + "/api/who?a=b", headers=FORGED)
    seen = answer.json()
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"], seen["HTTPS"]) == ("127.0.0.1", "http", None)
    assert 1024 < int(seen["REMOTE_PORT"]) < 65536
    assert _headers(seen, "x-forwarded-for") == ["127.0.0.1"]
    assert _headers(seen, "x-forwarded-proto") == ["http"]
    assert _headers(seen, "x-request-id") == [answer.headers["x-request-id"]]
    assert TRACEPARENT.fullmatch(_headers(seen, "traceparent")[0])
    names = {name for name, _value in seen["headers"]}
    assert not [name for name in names if "HEADWAY" in name]
    assert not names & {"HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_BAGGAGE"}


def test_a_trace_goes_on(plain: Running) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert _headers(httpx.get(plain.url, headers={"traceparent": trace}).json(), "traceparent") == [trace]
    broken = _headers(httpx.get(plain.url, headers={"traceparent": "00-nonsense"}).json(), "traceparent")
    assert len(broken) == 1
    assert TRACEPARENT.fullmatch(broken[0])


def test_access_log_is_json_with_service_and_replica(plain: Running) -> None:
    ids = {}
    for path in ("/logged?secret=1", "/api/logged"):
        answer = httpx.get(plain.url + path, headers={"user-agent": 'quote " and \\ backslash'})
        ids[answer.headers["x-request-id"]] = answer.json()["replica"]
    log = plain.folders.logs / "access.log"

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in whole_lines(log)]
        return found if ids.keys() <= {line["id"] for line in found} else []

    found = wait_for(lines, 30, "both requests in the access log")
    mine = {line["id"]: line for line in found if line["id"] in ids}
    for request_id, replica in ids.items():
        line = mine[request_id]
        assert (line["service"], line["replica"]) == (replica.rpartition(".")[0], replica)
        assert (line["method"], line["status"], line["client"]) == ("GET", 200, "127.0.0.1")
        assert 0 <= line["ttfb_ms"] <= line["total_ms"] + 1 < 60_000  # each is rounded by itself
        assert abs(float(line["time"]) - time.time() * (1000 if float(line["time"]) > 1e11 else 1)) < 60_000
    assert sorted(line["path"] for line in mine.values()) == ["/api/logged", "/logged"]


# -- static files ------------------------------------------------------------------------------------------------------


def test_static_files_come_without_python(plain: Running) -> None:
    url = plain.url + "/static/css/site.css"
    answer = httpx.get(url)
    assert (answer.status_code, answer.text) == (200, "body { color: green }\n")
    assert answer.headers["content-type"].startswith("text/css")
    assert "max-age=3600" in answer.headers["cache-control"]
    large = httpx.get(plain.url + "/static/large.bin")
    assert large.content == bytes(range(256)) * 20_000
    assert httpx.get(plain.url + "/static/none.css").status_code == 404
    for outside in (
        "/static/../secret.txt",
        "/static/%2e%2e/secret.txt",
        "/static/..%2fsecret.txt",
        "/static//etc/passwd",
    ):
        leak = httpx.get(plain.url + outside)
        assert "not for you" not in leak.text
        assert "root:" not in leak.text
    with ThreadPoolExecutor(4) as pool:
        # Both event loops stand still until they are told to go on; the files come all the same.
        blocked = [pool.submit(httpx.get, plain.url + "/block", timeout=120) for _ in range(2)]
        try:
            wait_for(lambda: sum(_sessions(plain)) >= 2, 30, "both replicas are busy")
            with httpx.Client() as client:
                assert [client.get(url).status_code for _ in range(10)] == [200] * 10
            assert [each.done() for each in blocked] == [False, False]
        finally:
            (plain.folder / "go").touch()
        assert [each.result(60).status_code for each in blocked] == [200, 200]


def _sessions(system: Running) -> list[int]:
    """Requests at each replica of `web` as HAProxy counts them."""
    from headway.edge.runtime_api import RuntimeApi

    return [state.in_flight for state in RuntimeApi(str(system.folders.edge / "edge.sock"), 30.0).replicas("web")]


# -- sticky ------------------------------------------------------------------------------------------------------------


def test_sticky_client_stays_and_moves_on_when_its_replica_goes(plain: Running) -> None:
    clients = [httpx.Client(base_url=plain.url) for _ in range(4)]
    try:
        homes = [client.get("/").json()["replica"] for client in clients]
        assert set(homes) == {"web.1", "web.2"}, "new clients are spread"
        assert all("headway-web" in client.cookies for client in clients)
        assert not any("headway-web" in str(_headers(client.get("/").json(), "cookie")) for client in clients)
        plain.ok("scale", "web", "3")
        for client, home in zip(clients, homes, strict=True):
            assert {client.get("/").json()["replica"] for _ in range(6)} == {home}
        plain.ok("scale", "web", "1")
        for client in clients:
            answers = [client.get("/") for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200] * 3
            assert {answer.json()["replica"] for answer in answers} == {"web.1"}
        assert httpx.get(plain.url + "/api").headers.get("set-cookie") is None
    finally:
        for client in clients:
            client.close()
        plain.ok("scale", "web", "2")
    assert plain.status()["edge"]["reloads"] == 0


# -- TLS, a proxy in front, rates --------------------------------------------------------------------------------------


class Certificates:
    """An authority, and certificates of it at the place that the declaration names."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.path = folder / "site.pem"
        folder.mkdir()
        self.issue()

    def issue(self) -> None:
        """A fresh certificate in place of the one before, in one step as certbot does it."""
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        fresh.replace(self.path)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def served(self, port: int) -> str:
        """The certificate that is served now."""
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=60)


@pytest.fixture(scope="module")
def http_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("secure") / "certs")


@pytest.fixture(scope="module")
def secure(certificates: Certificates, http_port: int) -> Iterator[Running]:
    folder = certificates.path.parent.parent
    _write(folder)
    with Running(folder, SECURE.replace("$HTTP", str(http_port))) as running:
        yield running


@pytest.fixture
def browser(secure: Running, certificates: Certificates) -> Iterator[httpx.Client]:
    base = f"https://127.0.0.1:{secure.port}"
    with httpx.Client(base_url=base, verify=certificates.context(), http2=True) as client:
        yield client


def _from(address: str) -> dict[str, str]:
    return {"x-forwarded-for": address}


def test_https_and_http2(secure: Running, browser: httpx.Client) -> None:
    assert secure.status()["edge"]["url"] == f"https://127.0.0.1:{secure.port}"
    answer = browser.get("/", headers=_from("192.0.2.1"))
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
    assert answer.json()["scheme"] == "https"
    seen = browser.get("/api", headers=_from("192.0.2.1")).json()
    assert (seen["wsgi.url_scheme"], seen["HTTPS"]) == ("https", "on")


def test_websocket_over_tls(secure: Running, certificates: Certificates) -> None:
    address = f"wss://127.0.0.1:{secure.port}/socket"
    with connect(address, ssl=certificates.context(), additional_headers=_from("192.0.2.2"), open_timeout=60) as socket:
        seen = json.loads(socket.recv(timeout=60))
    assert (seen["scheme"], seen["client"][0]) == ("wss", "192.0.2.2")


def test_http_is_sent_to_https(secure: Running, http_port: int) -> None:
    plain = f"http://127.0.0.1:{http_port}/deep/path?a=b%20c"
    answer = httpx.get(plain, headers=_from("192.0.2.3"))
    assert answer.status_code == 301
    assert answer.headers["location"] == f"https://127.0.0.1:{secure.port}/deep/path?a=b%20c"
    assert httpx.post(plain, content=b"x", headers=_from("192.0.2.3")).status_code == 308


def test_trusted_proxy_is_believed(browser: httpx.Client) -> None:
    chain = "6.6.6.6, 203.0.113.9, 127.0.0.7"
    headers = {"x-forwarded-for": chain, "x-forwarded-proto": "https", "x-forwarded-host": "shop.example"}
    seen = browser.get("/", headers=headers | {"x-request-id": "from-the-proxy", "x-headway-from": "x"}).json()
    # 127.0.0.7 is one of the trusted; what stands before 203.0.113.9 was written by the client itself.
    assert seen["client"][0] == "203.0.113.9"
    assert _headers(seen, "x-forwarded-for") == [chain + ", 127.0.0.1"]
    assert _headers(seen, "x-forwarded-host") == ["shop.example"]
    assert _headers(seen, "x-request-id") == ["from-the-proxy"]
    wsgi = browser.get("/api", headers=headers).json()
    assert wsgi["REMOTE_ADDR"] == "203.0.113.9"


def test_client_rate_is_kept_by_the_resolved_address(browser: httpx.Client) -> None:
    def statuses(address: str, count: int) -> list[int]:
        return [browser.get("/", headers=_from(address)).status_code for _ in range(count)]

    fast = statuses("198.51.100.1", 80)
    assert fast[:5] == [200] * 5
    assert fast.count(429) >= 20
    assert set(fast) == {200, 429}
    refused = browser.get("/", headers=_from("198.51.100.1"))
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert statuses("198.51.100.2", 5) == [200] * 5, "another client is not touched"


def test_certificate_is_swapped_without_a_reload(
    secure: Running, certificates: Certificates, browser: httpx.Client
) -> None:
    before = certificates.served(secure.port)
    edge = secure.pid("edge")
    assert browser.get("/", headers=_from("192.0.2.20")).status_code == 200
    certificates.issue()
    wait_for(lambda: certificates.served(secure.port) != before, 30, "the new certificate is served")
    now = certificates.served(secure.port)
    with httpx.Client(verify=certificates.context()) as fresh:
        assert fresh.get(f"https://127.0.0.1:{secure.port}/", headers=_from("192.0.2.20")).status_code == 200
    assert browser.get("/", headers=_from("192.0.2.20")).status_code == 200, "an open connection goes on"

    # A broken one is told, and the one before stays.
    broken = certificates.path.with_suffix(".broken")
    broken.write_text("-----BEGIN CERTIFICATE-----\nhalf a file\n")
    broken.replace(certificates.path)  # in one step: an empty one would be told as well
    wait_for(lambda: _warnings(secure), 30, "a warning in the journal")
    assert "site.pem" in _warnings(secure)[0]["reason"]
    assert certificates.served(secure.port) == now
    time.sleep(1.2)  # another look at the same broken file, and nothing new to say about it
    assert len(_warnings(secure)) == 1
    # Who looks is told that the next start would fail.
    up, check, doctor = secure.run("up"), secure.run("check"), secure.run("doctor")
    assert (up.returncode, check.returncode, doctor.returncode) == (0, 1, 1)
    assert "site.pem holds no private key: the one before is served on, but the next start needs a good" in up.stderr
    assert "site.pem holds no private key\nhint: " in check.stderr
    assert any(line.startswith("✗ certificate ") for line in doctor.stdout.splitlines())

    # Its repair is served again.
    certificates.issue()
    wait_for(lambda: certificates.served(secure.port) != now, 30, "the repaired certificate is served")
    assert secure.status()["edge"]["reloads"] == 0
    assert secure.pid("edge") == edge


def _warnings(system: Running) -> list[dict[str, Any]]:
    return [entry for entry in system.journal() if entry["about"] == "edge" and entry["level"] == "warning"]
