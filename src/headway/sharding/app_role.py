"""The app's own role on a server that is declared by URL: it reads and writes rows, and owns nothing.

The login of the URL makes it, where it may create roles. Nothing is kept anywhere: the password follows from the URL's,
so that every machine that is given the same URL comes to the same one, and none takes it away from another. Where the
role cannot be made, the app logs in by the URL, and that is told.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import secrets
import threading
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from headway.errors import EngineError, HeadwayError
from headway.sharding import settings, wire
from headway.sharding.connection import check_url_reachable
from headway.sharding.url import compose_url, parse_url

_CONNECT_S = 5
_TRIES = 2  # another machine may do the same in this moment
# 16 MiB and some 40 ms: who knows the app's password must not get to the URL's by trying.
_SCRYPT_N, _SCRYPT_R = 2**14, 8
_ROLE_MAX_BYTES = 63
# Two of the servers may be databases of one PostgreSQL, where roles are for all.
_ONE_AT_A_TIME = threading.Lock()
Connection = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class AppRole:
    """The role as it is to be. `mark` is its comment, by which it is known as ours."""

    name: str
    mark: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AppWay:
    """The app's way in; `why` says what kept it from a role of its own."""

    url: str = field(repr=False)
    why: str = ""


def app_role(system: str, database: str, url: str) -> AppRole | None:
    """The role for a database's servers, by the URL of its first; None when that holds no password."""
    known = parse_url(url)
    if not known.password:
        return None
    # Of the database, not of the system: two databases may be on one server, and each has its password.
    name = f"{settings.role_name(system)}_{database}"[:_ROLE_MAX_BYTES]
    salt = f"headway app role {name}".encode()
    key = hashlib.scrypt(known.password.encode(), salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=1, dklen=24)
    return AppRole(name, f"Headway: the app's, system {system}, database {database}", _text(key))


def _text(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode()


def ensure_app_role(url: str, role: AppRole | None, path: str) -> AppWay:
    """Make the role, or put it right, on the server of `url`. EngineError when that does not let us in."""
    login = parse_url(url)
    if not login.user:
        login = replace(login, user=getpass.getuser())
        url = compose_url(login)
    if role is None:
        return AppWay(url, "the URL holds no password that one for the app could follow from")
    way = compose_url(replace(login, user=role.name, password=role.password))
    try:
        with (
            _ONE_AT_A_TIME,
            psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_S, application_name="headway") as admin,
        ):
            why = _ensure(admin, role, way)
    except psycopg.Error as error:
        raise EngineError(f"{path}: {_first_line(error)}", hint="Correct the URL, or the server.") from error
    return AppWay(url, why) if why else AppWay(way)


def _ensure(admin: Connection, role: AppRole, way: str) -> str:
    """Why the role cannot be had; empty when it lets the app in."""
    for attempt in range(_TRIES):
        row = admin.execute(
            "SELECT rolsuper OR rolcreaterole, current_user, "
            "(SELECT coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE rolname = %s) "
            "FROM pg_roles WHERE rolname = current_user",
            (role.name,),
        ).fetchone()
        may_create, user, mark = row if row is not None else (False, "", None)
        if mark is not None and mark != role.mark:
            return f"there is a role {role.name} already that Headway did not make"
        if mark is not None and _lets_in(way):
            return ""
        if not may_create:
            return f"{user} may not create roles (ALTER ROLE {user} CREATEROLE)"
        try:
            _make(admin, role, exists=mark is not None)
            break
        except psycopg.Error as error:
            if attempt == _TRIES - 1:
                return f"role {role.name} cannot be made: {_first_line(error)}"
    return "" if _lets_in(way) else f"the server does not let role {role.name} in (pg_hba.conf)"


def _make(admin: Connection, role: AppRole, *, exists: bool) -> None:
    verifier = wire.scram_verifier(role.password, secrets.token_bytes(16))
    name = sql.Identifier(role.name)
    with admin.transaction():
        verb = sql.SQL("ALTER" if exists else "CREATE")
        admin.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, name, sql.Literal(verifier)))
        admin.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(name, sql.Literal(role.mark)))
    try:
        database = sql.Identifier(admin.info.dbname)
        admin.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(database, name))
    except psycopg.errors.InsufficientPrivilege:
        pass  # all may connect to most databases; whether this one may is tried next


def _lets_in(url: str) -> bool:
    try:
        return check_url_reachable(url).authenticated
    except HeadwayError:
        return False


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
