"""Asks a PostgreSQL whether it is there: cheaply every few seconds (`health`), thoroughly once (`check_url_reachable`).

And how many connections the app holds (`role_connections`). All speak a handful of protocol messages over a plain
socket, so that none costs a process of ours, and each is bounded in time and bytes. Errors name the database and what
to change, never the password.
"""

from __future__ import annotations

import getpass
import ipaddress
import os
import secrets
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from headway.errors import EngineError, HeadwayError
from headway.sharding import wire
from headway.sharding.url import DatabaseUrl, parse_url

# SQLSTATEs, from PostgreSQL's appendix A.
_CANNOT_CONNECT_NOW = "57P03"  # starting up, shutting down, in recovery
_TOO_MANY_CONNECTIONS = "53300"
_WRONG_PASSWORD = "28P01"
_NOT_ALLOWED = "28000"
_NO_SUCH_DATABASE = "3D000"
# What a role holds and its own limit (-1: none); what all hold and what the server leaves to those that are not
# administrators. Others use up the same connections; the server's own processes have no role, or are in no database.
_CONNECTIONS = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user),
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
       (SELECT count(*) FROM pg_stat_activity WHERE usename IS NOT NULL AND datid IS NOT NULL),
       (SELECT sum(CASE name WHEN 'max_connections' THEN setting::int ELSE -setting::int END)
          FROM pg_settings
         WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections'))
"""
# A login takes less than ten messages besides the parameters; a server that goes on for ever is none.
_LOGIN_MESSAGES_MAX = 100


@dataclass(frozen=True, slots=True)
class Health:
    """What a look at the server found. `busy` is alive: every connection is taken, which restarting would not cure."""

    state: Literal["ready", "busy", "starting", "down", "silent"]
    reason: str

    @property
    def alive(self) -> bool:
        """Whether the server answers as one that is up."""
        return self.state in ("ready", "busy")


@dataclass(frozen=True, slots=True)
class Reached:
    """A database that let us in. `authenticated` is false when the URL holds no password or asks for more than one."""

    version: str
    encrypted: bool
    authenticated: bool
    row: tuple[str, ...] = ()  # what a query answered, where one was asked


@dataclass(frozen=True, slots=True)
class RoleConnections:
    """Connections of all roles and of a URL's role, and the most that may be open. Headway's own are left out."""

    open: int
    most: int
    at_s: float  # on the machine's monotonic clock
    own: int | None = None  # of the URL's role; None: the same as `open`
    own_most: int | None = None  # where the role has a limit of its own


class Uncounted(Enum):
    """Why there is no count. Each allows something else: a full server bears no more, one that never tells may."""

    FULL = "full"  # it refuses another login, of this role or of all
    AWAY = "away"  # it does not answer, or not yet
    SOON = "soon"  # nobody has looked so far
    UNTOLD = "untold"  # it does not let us in by what the URL says: the app may know more


class _Refusal(Exception):
    """An error message of the server."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message


class _Channel:
    """A connected socket, read message by message until a deadline."""

    def __init__(self, sock: socket.socket, deadline_s: float) -> None:
        self.sock = sock
        self._deadline_s = deadline_s
        self._buffer = b""

    def _bound(self) -> None:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.sock.settimeout(left_s)

    def send(self, data: bytes) -> None:
        self._bound()
        self.sock.sendall(data)

    def byte(self) -> bytes:
        self._bound()
        return self.sock.recv(1)

    def message(self) -> wire.Message:
        """The next message; an error message raises `_Refusal`."""
        while (found := wire.split_message(self._buffer)) is None:
            self._bound()
            chunk = self.sock.recv(8192)
            if not chunk:
                raise wire.NotPostgresql("the connection was closed without an answer")
            self._buffer += chunk
        message, self._buffer = found
        if message.kind == "E":
            fields = wire.error_fields(message.body)
            raise _Refusal(fields.get("C", ""), fields.get("M", "an error without a message"))
        return message


def _connect(host: str, port: int, deadline_s: float) -> socket.socket:
    """A connected socket within the deadline; OSError otherwise. A host beginning with `/` is a socket's folder."""
    if host.startswith("/"):
        places: list[tuple[socket.AddressFamily, str | tuple[str, int]]] = [(socket.AF_UNIX, f"{host}/.s.PGSQL.{port}")]
    else:
        places = [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, (address, port))
            for address in _addresses(host, deadline_s)
        ]
    failure: OSError = TimeoutError()
    for family, place in places:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(left_s)
            sock.connect(place)
        except OSError as error:
            sock.close()
            failure = error
            continue
        return sock
    raise failure


def _addresses(host: str, deadline_s: float) -> list[str]:
    """The addresses of a name. The resolver knows no timeout, so it runs beside us and is left behind when too slow."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    found: list[str] = []
    failed: list[OSError] = []

    def resolve() -> None:
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(answer[4][0]) for answer in answers))
        except UnicodeError:
            failed.append(socket.gaierror(socket.EAI_NONAME, "not a host name"))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=resolve, daemon=True, name="headway-resolve")
    thread.start()
    thread.join(max(0.0, deadline_s - time.monotonic()))
    if failed:
        raise failed[0]
    if not found:
        raise socket.gaierror(socket.EAI_AGAIN, "the resolver does not answer")
    return found


def health(host: str, port: int, *, timeout_s: float = 1.0) -> Health:
    """One look at a server: connect, send a start-up packet, judge the answer, leave before any login.

    Never raises and never takes longer than `timeout_s`. Leaves no line in the server's log.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        with _connect(host, port, deadline_s) as sock:
            channel = _Channel(sock, deadline_s)
            channel.send(wire.startup("headway_health", "postgres"))
            channel.message()
    except TimeoutError:
        return Health("silent", f"did not answer within {timeout_s:g} s")
    except _Refusal as refusal:
        if refusal.sqlstate == _CANNOT_CONNECT_NOW:
            return Health("starting", refusal.message)
        if refusal.sqlstate == _TOO_MANY_CONNECTIONS:
            return Health("busy", refusal.message)
        # It judged our made-up user: whoever judges logins is up.
        return Health("ready", "answers")
    except (OSError, wire.NotPostgresql) as error:
        return Health("down", getattr(error, "strerror", None) or str(error) or type(error).__name__)
    return Health("ready", "answers")


def check_url_reachable(text: str, *, timeout_s: float = 5.0, path: str = "url") -> Reached:
    """Log in to the database of a URL within `timeout_s`; EngineError says what stands in the way and what to change.

    Several hosts are tried in turn. `path` is where the URL was written (`databases.main.url`).
    """
    return _reach(text, timeout_s=timeout_s, path=path)


def role_connections(text: str, *, timeout_s: float = 2.0) -> RoleConnections | Uncounted:
    """Count the connections of a URL's role within `timeout_s`, or say why they cannot be known; never raises."""
    try:
        row = _reach(text, timeout_s=timeout_s, path="url", query=_CONNECTIONS).row
        own, limit, everybody, most = (int(column) for column in row)
    except HeadwayError as error:
        return _uncounted(error.__cause__)
    except ValueError:
        return Uncounted.UNTOLD
    own, everybody, now_s = max(0, own - 1), max(0, everybody - 1), time.monotonic()
    if most <= 0:
        return Uncounted.UNTOLD
    return RoleConnections(everybody, most, now_s, own, limit if limit >= 0 else None)


def _uncounted(problem: BaseException | None) -> Uncounted:
    if isinstance(problem, _Refusal) and problem.sqlstate == _TOO_MANY_CONNECTIONS:
        return Uncounted.FULL
    if isinstance(problem, OSError) or (isinstance(problem, _Refusal) and problem.sqlstate == _CANNOT_CONNECT_NOW):
        return Uncounted.AWAY
    return Uncounted.UNTOLD


def _reach(text: str, *, timeout_s: float, path: str, query: str = "") -> Reached:
    url = parse_url(text, path=path)
    deadline_s = time.monotonic() + timeout_s
    error: EngineError | None = None
    cause: Exception | None = None
    for host, port in url.hosts or (("localhost", url.port),):
        place = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"
        try:
            with _connect(host or "localhost", port, deadline_s) as sock:
                return _login(sock, url, host or "localhost", deadline_s, query)
        except (OSError, _Refusal, wire.NotPostgresql) as problem:
            message, hint = _explain(problem, url, place, timeout_s)
            error, cause = EngineError(f"{path}: {message}", hint=hint), problem
    assert error is not None
    raise error from cause


def _login(sock: socket.socket, url: DatabaseUrl, host: str, deadline_s: float, query: str = "") -> Reached:
    user = url.user or os.environ.get("PGUSER") or getpass.getuser()
    password = url.password or os.environ.get("PGPASSWORD", "")
    channel = _Channel(sock, deadline_s)
    encrypted = _encrypt(channel, url, host)
    channel.send(wire.startup(user, url.name or os.environ.get("PGDATABASE") or user))
    scram = wire.Scram(secrets.token_urlsafe(18), password)
    version, expected = "", b""
    with channel.sock:
        for _ in range(_LOGIN_MESSAGES_MAX):
            message = channel.message()
            if message.kind == "S":
                name, value = wire.parameter(message.body)
                version = value if name == "server_version" else version
            elif message.kind == "Z":
                row = _ask(channel, query) if query else ()
                channel.send(wire.TERMINATE)
                return Reached(version, encrypted, authenticated=True, row=row)
            elif message.kind == "R" and message.number != 0:
                if not password:
                    return Reached(version, encrypted, authenticated=False)
                if message.number == 3:
                    channel.send(wire.password_message(password.encode() + b"\0"))
                elif message.number == 5:
                    channel.send(wire.password_message(wire.md5_answer(user, password, message.body[4:8])))
                elif message.number == 10 and b"SCRAM-SHA-256\0" in message.body:
                    channel.send(wire.password_message(scram.first()))
                elif message.number == 11:
                    answer, expected = scram.final(message.body[4:])
                    channel.send(wire.password_message(answer))
                elif message.number == 12:
                    if message.body[4:] != expected:
                        raise wire.NotPostgresql("the server does not know the password that it asked for")
                else:  # Kerberos, certificates, channel binding: the app's own driver may well do it
                    return Reached(version, encrypted, authenticated=False)
    raise wire.NotPostgresql("the login does not come to an end")


def _ask(channel: _Channel, query: str) -> tuple[str, ...]:
    """The first row that a query answers."""
    channel.send(wire.query(query))
    row: tuple[str, ...] = ()
    for _ in range(_LOGIN_MESSAGES_MAX):
        message = channel.message()
        if message.kind == "Z":
            return row
        if message.kind == "D" and not row:
            row = wire.row(message.body)
    raise wire.NotPostgresql("the answer does not come to an end")


def _encrypt(channel: _Channel, url: DatabaseUrl, host: str) -> bool:
    """Turn the channel's socket to TLS as `sslmode` asks; True when it is encrypted."""
    mode = url.option("sslmode", "prefer")
    if mode == "disable" or host.startswith("/"):
        return False
    channel.send(wire.SSL_REQUEST)
    answer = channel.byte()
    if answer == b"S":
        channel.sock = _tls_context(url, mode).wrap_socket(channel.sock, server_hostname=host)
        return True
    if answer != b"N":
        raise wire.NotPostgresql("what answers there is not PostgreSQL")
    if mode not in ("allow", "prefer"):
        raise wire.NotPostgresql(f"the server offers no TLS, but the URL says sslmode={mode}")
    return False


def _tls_context(url: DatabaseUrl, mode: str) -> ssl.SSLContext:
    """What libpq would verify: nothing unless a root certificate or `verify-…` asks for it."""
    context = ssl.create_default_context()
    root = url.option("sslrootcert")
    if not root and os.path.exists(default := os.path.expanduser("~/.postgresql/root.crt")):
        root = default
    if mode != "verify-full":
        context.check_hostname = False
        if mode != "verify-ca" and not root:
            context.verify_mode = ssl.CERT_NONE
    if root and root != "system":
        context.load_verify_locations(root)
    if certificate := url.option("sslcert"):
        context.load_cert_chain(certificate, url.option("sslkey") or None)
    return context


def _explain(problem: Exception, url: DatabaseUrl, place: str, timeout_s: float) -> tuple[str, str]:
    """What a person reads about a database that could not be reached: message and hint."""
    if isinstance(problem, _Refusal):
        return _explain_refusal(problem, url, place)
    if isinstance(problem, wire.NotPostgresql):
        return f"{place}: {problem}", "Check host, port and options of the URL."
    if isinstance(problem, TimeoutError):
        return (
            f"{place} did not answer within {timeout_s:g} s",
            "Check host and port, and that a firewall lets this machine through.",
        )
    if isinstance(problem, socket.gaierror):
        return f"the host of {place} is not known to this machine's resolver", "Check the host's spelling and the DNS."
    if isinstance(problem, ssl.SSLError):
        reason = getattr(problem, "verify_message", "") or problem.reason or problem
        return f"{place}: TLS failed: {reason}", "Check sslmode and sslrootcert in the URL."
    if isinstance(problem, (ConnectionRefusedError, FileNotFoundError)):
        return f"nothing listens at {place}", "Start that PostgreSQL, or correct host and port in the URL."
    reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return f"{place} cannot be reached: {reason}", "Check host and port of the URL and the network."


def _explain_refusal(refusal: _Refusal, url: DatabaseUrl, place: str) -> tuple[str, str]:
    user = url.user or "the default user"
    if refusal.sqlstate == _WRONG_PASSWORD:
        return (
            f"{place} refuses the password of {user}",
            "Correct user and password in the URL; special characters of a password are written percent-encoded.",
        )
    if refusal.sqlstate == _NO_SUCH_DATABASE:
        return (
            f"{place} has no database {url.name or user}",
            f"Create it: createdb --host {url.host or 'localhost'} --owner {user} {url.name or user}",
        )
    if refusal.sqlstate == _NOT_ALLOWED:
        return f"{place}: {refusal.message}", "Allow this login in the server's pg_hba.conf, or use sslmode=require."
    if refusal.sqlstate == _TOO_MANY_CONNECTIONS:
        return f"{place}: {refusal.message}", "Close connections or raise max_connections of that server."
    if refusal.sqlstate == _CANNOT_CONNECT_NOW:
        return f"{place}: {refusal.message}", "Wait until that server is up and try again."
    return f"{place}: {refusal.message}", "Correct the URL."
