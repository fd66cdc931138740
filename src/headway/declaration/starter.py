"""Writes the first declaration of an app: short, commented from the model's descriptions, every guess with its reason.

`starter_text` is pure; `write_starter` looks, writes one file, and never overwrites one.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from headway.declaration.discover import DatabaseUse, Discovery, discover
from headway.declaration.findings import EnvRead
from headway.declaration.keys import fields_of
from headway.declaration.sources import FILE, declared_in, system_name
from headway.errors import Conflict, MachineError

_WIDTH = 110
_OTHERS_MAX = 5


def write_starter(folder: Path) -> Path:
    """Write `headway.toml` for the app in this folder and return its path.

    Conflict when a declaration is there already, AppError when no app is found; nothing is written then.
    """
    existing = declared_in(folder)
    if existing is not None:
        raise Conflict(
            f"{existing} declares a system already", hint="edit it, or move it away and run `headway init` again"
        )
    text = starter_text(discover(folder), system_name(folder.absolute()))
    path = folder / FILE
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Conflict(f"{path} was written by somebody else just now", hint="look at it first") from None
    except OSError as error:
        raise MachineError(
            f"{path} cannot be written: {error.strerror}",
            hint=f"check the owner and mode of the folder: ls -ld {shlex.quote(str(folder))}",
        ) from error
    return path


def starter_text(found: Discovery, name: str) -> str:
    """The declaration's text for what was found."""
    parts = [
        ["# `headway check` says what is wrong here; every key is in Headway's docs/reference/declaration.md."],
        ["", "[system]", f'name = "{name}"'],
        ["", "[edge]", *_comment("edge", "bind"), 'bind = ["127.0.0.1:8000"]'],
        ["", "[services.web]", *_app(found), *_comment("services.*", "routes"), 'routes = ["/"]'],
        _replicas(found),
        _environment(found),
        _optional(found),
        _celery(found),
        _database(found.database),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _comment(section: str, key: str) -> list[str]:
    return _wrap(fields_of(section)[key].description or "")


def _wrap(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)]


def _app(found: Discovery) -> Iterator[str]:
    yield f"# {found.app.reason[:1].upper()}{found.app.reason[1:]}, found in {found.app.where}."
    yield f'app = "{found.app.target}"'
    for other in found.others[:_OTHERS_MAX]:
        folder = f" with folder = {_quoted(other.folder)}" if other.folder != found.app.folder else ""
        yield f'# app = "{other.target}"{folder}    # or: {other.reason}, {other.where}'
    if len(found.others) > _OTHERS_MAX:
        yield f"# … and {len(found.others) - _OTHERS_MAX} more"
    if found.truncated:
        yield "# This folder holds more files than were looked at."
    if found.app.folder != ".":
        yield from _comment("services.*", "folder")
        yield f"folder = {_quoted(found.app.folder)}"


def _replicas(found: Discovery) -> list[str]:
    reasons = [finding for finding in found.findings if finding.kind in ("state", "scheduler")]
    lines = _comment("services.*", "replicas")
    if not reasons:
        lines.append("# replicas = 2")
    else:
        several = {
            "state": "with more replicas a client would meet one that does not know it",
            "scheduler": "with more replicas every job would run once in each",
        }
        for kind, then in several.items():
            of_kind = [finding for finding in reasons if finding.kind == kind]
            for finding in of_kind[:3]:
                lines += _wrap(f"One, because of {finding.where}: {finding.text}; {then}.")
            if len(of_kind) > 3:
                lines.append(f"# … and {len(of_kind) - 3} more places like these.")
        lines.append("replicas = 1")
    for finding in found.findings:
        if finding.kind == "sticky":
            lines += [*_wrap(f"{finding.where}: {finding.text}."), "sticky = true"]
            break
    for finding in found.findings:
        if finding.kind == "sqlite":
            told = "replicas here share its file, but writes wait for each other; PostgreSQL is [databases.main]"
            lines += _wrap(f"{finding.where}: {finding.text}: {told}.")
            break
    return lines


def _environment(found: Discovery) -> list[str]:
    variables: dict[str, str] = {}
    if found.database is not None and found.database.certain:
        variables.update(found.database.variables)
    lines: list[str] = []
    if found.environment:
        lines += _wrap(f"The app reads {_reads(found.environment)} from its environment.")
    if variables:
        lines += [*_comment("services.*", "env"), f"env = {_inline(variables)}"]
    elif found.environment:
        first = found.environment[0].name
        lines.append(f"# env = {_inline({first: f'{{env.{first}}}'})}")
    return lines


def _reads(environment: Iterable[EnvRead]) -> str:
    names = [f"{read.name} ({read.where})" for read in environment]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _optional(found: Discovery) -> Iterator[str]:
    keys = ["slo", "deadline", "memory_max"]
    if found.app.interface == "wsgi":
        keys.insert(0, "threads")
    for key in keys:
        yield from _comment("services.*", key)
        yield f"# {key} = {(fields_of('services.*')[key].examples or [''])[0]}"


def _celery(found: Discovery) -> Iterator[str]:
    for finding in found.findings:
        if finding.kind == "celery":
            yield ""
            yield f"# Celery, found in {finding.where}. " + (fields_of("services.*")["command"].description or "")
            yield "# [services.worker]"
            yield f'# command = ["celery", "-A", "{finding.text}", "worker"]'
            if found.app.folder != ".":
                yield f"# folder = {_quoted(found.app.folder)}"
            return


def _database(use: DatabaseUse | None) -> Iterator[str]:
    if use is None:
        return
    schema = f'schema = "{use.schema}"' if use.schema else ""
    yield ""
    if use.certain:
        yield f"# PostgreSQL, started beside the app, because of {use.where}."
        yield "[databases.main]"
        yield from [*_comment("databases.*", "schema"), schema] if schema else []
        yield from [*_comment("databases.*", "url"), '# url = "postgresql://user@host:5432/name"']
        return
    yield from _wrap(
        f"{use.where} reads a database's address and has another default. To give the app PostgreSQL, add its driver "
        "and take these comments off; env goes into [services.web]."
    )
    yield f"# env = {_inline(use.variables)}"
    yield "# [databases.main]"
    if schema:
        yield f"# {schema}"


def _inline(variables: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{name} = {_quoted(text)}" for name, text in variables.items()) + " }"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
