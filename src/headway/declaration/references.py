"""References in `env` and database URLs: `{main.url}`, `{env.NAME}`, `{file.PATH}` stand for values that the file must
not hold (secrets) or cannot know (where an embedded database listens).

Errors name the reference, never a value: values are secrets.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import DeclarationError, Problem

if TYPE_CHECKING:
    from headway.model.declared import Cache, Database, Service

FIELDS = ("url", "host", "port", "user", "password", "name")  # of a database
CACHE_FIELDS = ("url",)
SERVICE_FIELDS = ("url",)
SECRET_MAX_BYTES = 64 * 1024

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Reference:
    """`{owner.field}`: owner is `env`, `file`, or the name of a database, cache or service."""

    owner: str
    field: str

    @property
    def text(self) -> str:
        """As the user wrote it."""
        return f"{{{self.owner}.{self.field}}}"


def parse(text: str) -> tuple[str | Reference, ...]:
    """Literal pieces and references of a text; ValueError "what; what to write" for a lone or empty brace."""
    pieces: list[str | Reference] = []
    at = 0
    for match in _TOKEN.finditer(text):
        pieces.append(text[at : match.start()])
        at = match.end()
        token = match[0]
        if token in ("{{", "}}"):
            pieces.append(token[0])
        elif match[1] is None:
            raise ValueError("has a single brace; a brace that is no reference is doubled: {{ and }}")
        else:
            pieces.append(_reference(match[1]))
    pieces.append(text[at:])
    return tuple(piece for piece in pieces if piece != "")


def _reference(inside: str) -> Reference:
    owner, dot, field = inside.strip().partition(".")
    if dot and field and re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", owner):
        return Reference(owner, field)
    # Only what looks like a name is repeated: anything else may be a secret with braces in it.
    shown = f"{{{inside}}} is" if re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", inside) else "has braces that are"
    raise ValueError(
        f"{shown} not a reference; write {{main.url}}, {{env.NAME}} or {{file.PATH}}, and {{{{ }}}} for plain braces"
    )


def references(service: Service) -> Iterator[tuple[str, Reference]]:
    """Every well-formed reference of a service's environment with the variable that holds it."""
    for variable, text in service.env.items():
        try:
            pieces = parse(text)
        except ValueError:
            continue
        yield from ((variable, piece) for piece in pieces if isinstance(piece, Reference))


def resolve_env(
    service: Service,
    *,
    databases: Mapping[str, Mapping[str, str]],
    environment: Mapping[str, str],
    root: Path,
) -> dict[str, str]:
    """The service's own variables with every reference replaced.

    `databases` holds the fields of each database, cache and called service by name. DeclarationError names all
    references that have no value now.
    """
    resolved: dict[str, str] = {}
    problems: list[Problem] = []
    for variable, text in service.env.items():
        try:
            resolved[variable] = resolve(text, databases=databases, environment=environment, root=root)
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            problems.append(Problem(f"env.{variable}", message, hint))
    if problems:
        raise DeclarationError("environment", tuple(problems))
    return resolved


def resolve_those_known(
    env: Mapping[str, str], databases: Mapping[str, Mapping[str, str]], environment: Mapping[str, str], root: Path
) -> dict[str, str]:
    """Variables with their references replaced; without those that have no value now."""
    found = {}
    for variable, text in env.items():
        with contextlib.suppress(ValueError):
            found[variable] = resolve(text, databases=databases, environment=environment, root=root)
    return found


def resolve_url(database: Database, *, environment: Mapping[str, str], root: Path) -> str | None:
    """The database's URL with `{env.…}` and `{file.…}` replaced; None for an embedded one."""
    return None if database.url is None else _resolved(database.url, "url", environment, root)


def resolve_cache(cache: Cache, *, environment: Mapping[str, str], root: Path) -> Cache:
    """The cache with `{env.…}` and `{file.…}` replaced. Holds secrets."""
    values = {key: _resolved(text, key, environment, root) for key, text in cache.texts.items()}
    sentinel = cache.sentinel
    if sentinel is not None:
        sentinel = sentinel.model_copy(update={"password": values.get("sentinel.password")})
    return cache.model_copy(update={"url": values.get("url"), "sentinel": sentinel})


def resolve_servers(database: Database, *, environment: Mapping[str, str], root: Path) -> dict[str, str | None]:
    """The servers of a sharded database by name, with their URLs; None for embedded ones."""
    if isinstance(database.servers, dict):
        return {name: _resolved(url, f"servers.{name}", environment, root) for name, url in database.servers.items()}
    return {f"s{number}": None for number in range(1, (database.servers or 1) + 1)}


def _resolved(text: str, path: str, environment: Mapping[str, str], root: Path) -> str:
    try:
        return resolve(text, databases={}, environment=environment, root=root)
    except ValueError as error:
        message, _, hint = str(error).partition("; ")
        raise DeclarationError("environment", (Problem(path, message, hint),)) from None


def resolve(
    text: str, *, databases: Mapping[str, Mapping[str, str]], environment: Mapping[str, str], root: Path
) -> str:
    """One text with its references replaced; ValueError "what has no value; what to do" otherwise."""
    return "".join(
        piece if isinstance(piece, str) else _value(piece, databases, environment, root) for piece in parse(text)
    )


def _value(
    reference: Reference, databases: Mapping[str, Mapping[str, str]], environment: Mapping[str, str], root: Path
) -> str:
    if reference.owner == "env":
        if reference.field not in environment:
            raise ValueError(unset(reference.field))
        return environment[reference.field]
    if reference.owner == "file":
        return read_secret(root / Path(reference.field).expanduser(), reference.field)
    fields = databases.get(reference.owner, {})
    if reference.field not in fields:
        raise ValueError(f"{reference.text} has no value; declare [databases.{reference.owner}]")
    return fields[reference.field]


def unset(variable: str) -> str:
    """The sentence for an environment variable that is not there."""
    return f"environment variable {variable} is not set; set it where Headway starts: export {variable}=…"


def read_secret(path: Path, name: str) -> str:
    """A file's content without the line break at its end; ValueError "what; what to do" when it cannot be had."""
    try:
        with path.open("rb") as file:
            data = file.read(SECRET_MAX_BYTES + 1)
        if len(data) > SECRET_MAX_BYTES:
            raise ValueError(f"file {name} is larger than 64 KiB; a reference is for secrets, not for data")
        if b"\0" in data:
            raise ValueError(f"file {name} holds a zero byte, which no environment variable can; store it as text")
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"file {name} is not UTF-8 text; an environment variable holds text alone") from None
    except FileNotFoundError:
        raise ValueError(f"file {name} is missing; create it with the secret in it, mode 0600") from None
    except OSError as error:
        raise ValueError(f"file {name} cannot be read: {error.strerror}; check its owner and mode with ls -l") from None
