"""A database is known by its URL, and a URL carries a password: read it, take it apart, show it without the secret.

Accepted is what PostgreSQL's own clients accept (several hosts, IPv6, unix sockets, options after `?`), and the forms
with a driver that SQLAlchemy users write (`postgresql+psycopg://`). Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlencode

from headway.errors import DeclarationError, Problem

EXAMPLE = "postgresql://user:password@host:5432/name"
DEFAULT_PORT = 5432
_SECRET_OPTIONS = frozenset({"password", "sslpassword", "passfile", "oauth_client_secret"})
_SCHEME = re.compile(r"(?:postgresql|postgres)(?:\+[a-z0-9_]+)?")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A URL taken apart, every part decoded. A `host` that begins with `/` is the folder of a unix socket."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]  # tried in this order; empty: the client's default
    name: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    options: tuple[tuple[str, str], ...] = ()

    @property
    def host(self) -> str:
        """The first host; empty when the URL leaves it to the client."""
        return self.hosts[0][0] if self.hosts else ""

    @property
    def port(self) -> int:
        """The first host's port."""
        return self.hosts[0][1] if self.hosts else DEFAULT_PORT

    def option(self, name: str, default: str = "") -> str:
        """An option after the `?`; the last one counts, as in libpq."""
        return dict(self.options).get(name, default)


def parse_url(text: str, *, path: str = "url", source: str = "headway.toml") -> DatabaseUrl:
    """Take a PostgreSQL URL apart. DeclarationError, which never quotes the URL, when it is none.

    `path` and `source` say where the URL was written, for the error.
    """

    def refused(message: str, hint: str = f"Write it like {EXAMPLE}.") -> DeclarationError:
        return DeclarationError(source, (Problem(path, message, hint),))

    scheme, separator, rest = text.strip().partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise refused("is not a PostgreSQL URL")
    if "#" in rest or any(character.isspace() for character in rest):
        raise refused(
            "holds a character that a URL must not hold as it is",
            "Write special characters of the password percent-encoded: # is %23, @ is %40, / is %2F, a space is %20.",
        )
    before, _, query = rest.partition("?")
    authority, _, name = before.partition("/")
    if "/" in name:
        raise refused(
            "has a / too many", "Write a / in the password as %2F; the database name is what follows the host."
        )
    userinfo, _, places = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    options = tuple(parse_qsl(query, keep_blank_values=True))
    named = dict(options)
    try:
        hosts = tuple(_host(place) for place in places.split(",")) if places else ()
        if named.get("host"):
            hosts = _hosts_from_options(named["host"], named.get("port", ""))
        elif named.get("port"):
            port = _port(named["port"])
            hosts = tuple((host, port) for host, _ in hosts) or (("", port),)
    except ValueError as error:
        raise refused(str(error)) from None
    return DatabaseUrl(
        scheme=scheme,
        hosts=hosts,
        name=named.get("dbname") or unquote(name),
        user=named.get("user") or unquote(user),
        password=named.get("password") or unquote(password),
        options=tuple((key, value) for key, value in options if key not in _PLACED_OPTIONS),
    )


# Options that libpq takes after the `?` for what also has a place of its own in the URL.
_PLACED_OPTIONS = frozenset({"host", "port", "dbname", "user", "password"})


def _hosts_from_options(hosts: str, ports: str) -> tuple[tuple[str, int], ...]:
    names = hosts.split(",")
    numbers = [_port(port) for port in ports.split(",")]
    if len(numbers) not in (1, len(names)):
        raise ValueError("names a different number of ports than of hosts")
    return tuple(zip(names, numbers if len(numbers) > 1 else numbers * len(names), strict=True))


def _host(place: str) -> tuple[str, int]:
    if place.startswith("["):
        address, closed, rest = place[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError("holds an IPv6 address that is not closed by ]")
        return unquote(address), _port(rest[1:])
    host, _, port = place.partition(":")
    if ":" in port:
        raise ValueError("holds an IPv6 address without [ ]" if "." not in host else "holds a wrong port")
    return unquote(host), _port(port)


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise ValueError("holds a port that is not a number from 1 to 65535")
    return int(text)


def compose_url(url: DatabaseUrl) -> str:
    """The text of a URL; `parse_url` reads it back to the same parts."""
    login = ""
    if url.user or url.password:
        login = quote(url.user, safe="") + (f":{quote(url.password, safe='')}" if url.password else "") + "@"
    options = list(url.options)
    places = ""
    if any(host.startswith("/") or not host for host, _ in url.hosts):
        # A folder has no place before the slash that every client understands; as an option they all do.
        options.insert(0, ("host", ",".join(host for host, _ in url.hosts)))
        options.insert(1, ("port", ",".join(str(port) for _, port in url.hosts)))
    else:
        places = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in url.hosts)
    query = f"?{urlencode(options, quote_via=quote, safe='/,')}" if options else ""
    return f"{url.scheme}://{login}{places}/{quote(url.name, safe='')}{query}"


def without_password(text: str) -> str:
    """The URL for people, logs and `status`: no password, no secret option. Never fails and never leaks."""
    try:
        url = parse_url(text)
    except DeclarationError:
        return "postgresql://(unreadable)"
    options = tuple((key, value) for key, value in url.options if key not in _SECRET_OPTIONS)
    return compose_url(replace(url, password="", options=options))


def for_libpq(url: DatabaseUrl) -> str:
    """The URL as psql takes it: no driver in the scheme, and no password (it goes by PGPASSWORD, not by argv)."""
    options = tuple((key, value) for key, value in url.options if key != "sslpassword")
    return compose_url(replace(url, scheme="postgresql", password="", options=options))


def url_fields(text: str, *, path: str = "url", source: str = "headway.toml") -> dict[str, str]:
    """What `{main.FIELD}` can name: url, host, port, user, password, name."""
    url = parse_url(text, path=path, source=source)
    return {
        "url": text.strip(),
        "host": url.host,
        "port": str(url.port),
        "user": url.user,
        "password": url.password,
        "name": url.name,
    }
