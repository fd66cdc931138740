"""Who gets in and who does not, and what is said to those who do not."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest
import trustme
from postgresql_place import Place, wait_for

from headway.errors import EngineError
from headway.sharding import connection as looks
from headway.sharding import wire
from headway.sharding.connection import RoleConnections, Uncounted, health, role_connections
from headway.sharding.postgresql import Server, administer, server_health
from headway.sharding.settings import CONNECTIONS_MAX, SUPERUSER

Served = tuple[Place, Server]
check_url_reachable = partial(looks.check_url_reachable, timeout_s=30.0)  # a busy machine is slow with a login


def test_the_app_gets_in_by_its_url(served: Served) -> None:
    _, server = served
    reached = check_url_reachable(server.url)
    assert reached.version.startswith(server.engine.version)
    assert (reached.authenticated, reached.encrypted) == (True, False)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS mine (id int)")
        row = connection.execute("SELECT rolsuper, rolcreaterole FROM pg_roles WHERE rolname = current_user").fetchone()
        assert row == (False, False)
        owner = "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'main'"
        assert connection.execute(owner).fetchone() == ("shop", "UTF8")


def test_nobody_else_does(served: Served) -> None:
    _, server = served
    wrong = replace(server, password="wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong.url)
    with pytest.raises(EngineError, match=r"databases\.main: 127\.0\.0\.1:\d+ refuses the password of shop") as caught:
        check_url_reachable(wrong.url, path="databases.main")
    assert "wrong" not in caught.value.message + caught.value.hint
    # The administrator: not over TCP, and by the socket only as one of the machine's users who may.
    with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
        psycopg.connect(replace(server, role=SUPERUSER).url)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(host=str(server.socket_folder), port=server.port, user="shop", dbname="main")


@pytest.mark.parametrize("method", ["md5", "password", "trust"])
def test_older_ways_to_log_in(served: Served, method: str) -> None:
    _, server = served
    access = server.data_folder / "pg_hba.conf"
    before = access.read_text()
    script = f"SET password_encryption = 'md5'; CREATE ROLE by_{method} LOGIN PASSWORD 'it''s';"
    assert administer(server, script).status == 0
    right, wrong = (f"postgresql://by_{method}:{word}@127.0.0.1:{server.port}/postgres" for word in ("it%27s", "no"))

    def way_in(text: str) -> None:
        access.write_text(text)
        lines = "SELECT count(*) FROM pg_hba_file_rules"
        assert administer(server, f"SELECT pg_reload_conf();\n{lines};").status == 0

    try:
        way_in(f"host all by_{method} 127.0.0.1/32 {method}\n{before}")

        def let_in() -> bool:
            with contextlib.suppress(EngineError):
                return check_url_reachable(right).authenticated
            return False

        wait_for(let_in, f"login by {method}")
        if method == "trust":
            assert check_url_reachable(wrong).authenticated
        else:
            with pytest.raises(EngineError, match="refuses the password"):
                check_url_reachable(wrong)
            without = f"postgresql://by_{method}@127.0.0.1:{server.port}/postgres"
            assert not check_url_reachable(without).authenticated
    finally:
        way_in(before)


def test_no_such_database(served: Served) -> None:
    _, server = served
    with pytest.raises(EngineError, match="has no database nothing") as caught:
        check_url_reachable(replace(server, database="nothing").url)
    assert "createdb" in caught.value.hint


def test_by_the_socket(served: Served) -> None:
    _, server = served
    url = f"postgresql://shop:{server.password}@/main?host={server.socket_folder}&port={server.port}"
    assert check_url_reachable(url).authenticated
    with pytest.raises(EngineError, match="nothing listens at"):
        check_url_reachable(url.replace(f"port={server.port}", "port=1"))


def test_the_second_host_answers(served: Served) -> None:
    _, server = served
    with _listener() as (_, closed):
        pass
    url = server.url.replace("@", f"@127.0.0.1:{closed},")
    assert check_url_reachable(url).authenticated


@contextlib.contextmanager
def _listener() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, listener.getsockname()[1]


def test_nothing_there() -> None:
    with _listener() as (_, port):
        pass
    with pytest.raises(EngineError, match=rf"nothing listens at 127\.0\.0\.1:{port}") as caught:
        check_url_reachable(f"postgresql://u:p@127.0.0.1:{port}/d")
    assert caught.value.hint
    assert health("127.0.0.1", port).state == "down"


def test_a_name_that_is_none() -> None:
    with pytest.raises(EngineError, match="not known to this machine's resolver"):
        check_url_reachable(f"postgresql://u:p@{'x' * 70}.invalid/d")


def test_silence_is_bounded() -> None:
    with _listener() as (_, port):
        began_s = time.monotonic()
        with pytest.raises(EngineError, match=r"did not answer within 0\.3 s"):
            check_url_reachable(f"postgresql://u:p@127.0.0.1:{port}/d", timeout_s=0.3)
        assert health("127.0.0.1", port, timeout_s=0.2).state == "silent"
        assert time.monotonic() - began_s < 30


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"N" + b"S\0\0\0\4" * 5000])
def test_something_else_there(answer: bytes) -> None:
    with _listener() as (listener, port):

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(30)
                    connection.recv(1000)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(EngineError):
            check_url_reachable(f"postgresql://u:p@127.0.0.1:{port}/d", timeout_s=30)
        assert health("127.0.0.1", port, timeout_s=30).state in ("down", "ready")
        thread.join(30)
        assert not thread.is_alive()


def test_a_server_whose_connections_are_all_taken_is_alive(place: Place) -> None:
    """Looks at a full server say `busy`: restarting it would throw out everybody and cure nothing."""
    server, _ = place.start()
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX + 5):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30))
            sock.sendall(wire.startup("shop", "main"))
            sock.settimeout(30)
            sock.recv(1)
        found = server_health(server, timeout_s=30)
        assert (found.state, found.alive) == ("busy", True)
    wait_for(lambda: server_health(server).state == "ready", "room again")


def test_a_look_leaves_no_line_in_the_log(served: Served) -> None:
    place, server = served
    before = place.log.stat().st_size
    for _ in range(20):
        assert server_health(server, timeout_s=30).state == "ready"
    check_url_reachable(server.url)
    said = place.log.read_bytes()[before:].decode().splitlines()
    # That it has read its files anew, for another test, may be told late.
    assert [line for line in said if "SIGHUP" not in line and ": parameter " not in line] == []


@contextlib.contextmanager
def _tls_in_front(server: Server, context: ssl.SSLContext) -> Iterator[int]:
    """A TLS end before the real server, as a hosted one has: the wheel's PostgreSQL knows no TLS itself."""
    with _listener() as (listener, port):

        def relay(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    client.settimeout(60)
                    assert client.recv(8) == wire.SSL_REQUEST
                    client.sendall(b"S")
                    try:
                        encrypted = context.wrap_socket(client, server_side=True)
                    except OSError:
                        client.close()
                        continue
                    upstream = socket.create_connection(("127.0.0.1", server.port), 60)
                    upstream.settimeout(60)
                    threading.Thread(target=relay, args=(upstream, encrypted), daemon=True).start()
                    relay(encrypted, upstream)
                    encrypted.close()
                    upstream.close()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield port
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def test_tls_is_verified_as_the_url_says(served: Served, tmp_path: Path) -> None:
    _, server = served
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with _tls_in_front(server, context) as port:
        url = server.url.replace(f":{server.port}/", f":{port}/")
        for options in ("", "?sslmode=require", f"?sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"):
            reached = check_url_reachable(url + options)
            assert (reached.encrypted, reached.authenticated) == (True, True)
        for options in ("verify-full", f"verify-ca&sslrootcert={tmp_path}/other.pem"):
            with pytest.raises(EngineError, match="TLS failed") as caught:
                check_url_reachable(f"{url}?sslmode={options}")
            assert "sslrootcert" in caught.value.hint
        named = url.replace("127.0.0.1", "localhost")
        with pytest.raises(EngineError, match="TLS failed"):
            check_url_reachable(f"{named}?sslmode=verify-full&sslrootcert={tmp_path}/ca.pem")
    with pytest.raises(EngineError, match="offers no TLS"):
        check_url_reachable(f"{server.url}?sslmode=require")


def counted(server: Server, expected: int) -> RoleConnections:
    """The count, when it is this: a server's process of a client that has gone ends a moment later."""
    found: list[RoleConnections | Uncounted] = []

    def look() -> bool:
        found.append(role_connections(server.url, timeout_s=30))
        return isinstance(found[-1], RoleConnections) and found[-1].open == expected

    wait_for(look, f"{expected} connections")
    assert isinstance(found[-1], RoleConnections)
    return found[-1]


def retried(server: Server) -> psycopg.Connection[tuple[object, ...]]:
    """A login, when those before it have ended."""
    found: list[psycopg.Connection[tuple[object, ...]]] = []

    def login() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            found.append(psycopg.connect(server.url))
        return bool(found)

    wait_for(login, "a login")
    return found[0]


def test_the_connections_of_the_role_are_counted_without_our_own(served: Served) -> None:
    _, server = served
    before = counted(server, 0)
    with psycopg.connect(server.url), psycopg.connect(server.url):
        counted(server, 2)
    administer(server, f"ALTER ROLE {server.role} CONNECTION LIMIT 7")
    limited = role_connections(server.url, timeout_s=30)
    administer(server, f"ALTER ROLE {server.role} CONNECTION LIMIT -1")
    assert isinstance(limited, RoleConnections)
    assert (limited.own_most, before.own_most) == (7, None)
    assert CONNECTIONS_MAX - 10 <= before.most <= CONNECTIONS_MAX


def test_connections_that_cannot_be_counted_are_not_known(served: Served) -> None:
    _, server = served
    assert role_connections(replace(server, password="wrong").url) is Uncounted.UNTOLD
    assert role_connections("mysql://u@127.0.0.1/d") is Uncounted.UNTOLD
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began_s = time.monotonic()
        assert role_connections(f"postgresql://u:p@127.0.0.1:{port}/d", timeout_s=0.2) is Uncounted.AWAY
        assert time.monotonic() - began_s < 30
    assert role_connections(f"postgresql://u:p@127.0.0.1:{port}/d", timeout_s=1.0) is Uncounted.AWAY


def test_connections_of_another_role_use_up_the_same(served: Served) -> None:
    _, server = served
    before = counted(server, 0)
    administer(server, f"CREATE ROLE guest LOGIN PASSWORD 'guest' IN ROLE {server.role}")
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(psycopg.connect(replace(server, role="guest", password="guest").url))
        during = counted(server, 5)
    administer(server, "DROP ROLE guest")
    assert during.own == before.own


def test_a_role_or_a_server_that_refuses_one_more_is_full(served: Served) -> None:
    _, server = served
    counted(server, 0)
    administer(server, f"ALTER ROLE {server.role} CONNECTION LIMIT 1")
    with retried(server):
        by_role = role_connections(server.url, timeout_s=30)
    administer(server, f"ALTER ROLE {server.role} CONNECTION LIMIT -1")
    assert by_role is Uncounted.FULL
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            for _ in range(CONNECTIONS_MAX):
                stack.enter_context(psycopg.connect(server.url))
        assert role_connections(server.url, timeout_s=30) is Uncounted.FULL
    wait_for(lambda: isinstance(role_connections(server.url), RoleConnections), "room again")
