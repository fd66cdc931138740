"""`headway db import`: a plain database's tables go into the shards, while the app works."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from headway.cli.db import follow
from headway.cli.start import System
from headway.declaration.references import parse
from headway.errors import HeadwayError
from headway.sharding.url import compose_url, parse_url


def import_(system: System, name: str, source: str | None, *, switch: bool, abort: bool, as_json: bool) -> None:
    """Begin an import, end it by the switch, or undo it."""
    if sum((source is not None, switch, abort)) != 1:
        raise HeadwayError(
            "db import needs one of --from, --switch and --abort",
            hint=f"headway db import {name} --from main begins it.",
        )
    if source is not None:
        done = follow(system, "import", {"database": name, "from": _resolved(source)}, quiet=as_json)
        _show(done, _began(name, done), as_json)
    elif switch:
        done = follow(system, "import", {"database": name, "switch": True}, quiet=as_json)
        told = (
            f"{name} has taken over from {done['source']}: {done['rows']:,} rows, writes stood still for "
            f"{done['write_pause_ms']:.0f} ms, verified row by row, epoch {done['epoch']}"
        )
        _show(done, told, as_json)
    else:
        done = follow(system, "import", {"database": name, "abort": True}, quiet=as_json)
        _show(done, f"the import from {done['source']} is undone; the app's data is where it was", as_json)


def _show(done: dict[str, Any], told: str, as_json: bool) -> None:
    click.echo(json.dumps(done) if as_json else told)


def _began(name: str, done: dict[str, Any]) -> str:
    return (
        f"{name} follows {done['source']}: {done['rows']:,} rows, copied in {done['copy_s']:.1f} s and spread in "
        f"{done['fill_s']:.1f} s, verified row by row\n"
        f"headway db import {name} --switch lets the shards take over, --abort undoes it"
    )


def _resolved(source: str) -> str:
    """The name of a declared database, or a URL whose password does not come from the command line."""
    if "{" not in source:
        if "://" not in source:
            return source
        if parse_url(source, path="--from", source="the command").password:
            raise HeadwayError(
                "--from: a password on the command line is seen by everybody on this machine",
                hint="Put the URL into a variable: --from '{env.SOURCE_URL}', or a file: --from '{file.source.url}'; "
                "or leave the password out and set PGPASSWORD.",
            )
        return _with_password(source)
    try:
        pieces = parse(source)
    except ValueError as error:
        message, _, hint = str(error).partition("; ")
        raise HeadwayError(f"--from: {message}", hint=hint) from None
    return _with_password("".join(piece if isinstance(piece, str) else _value(piece) for piece in pieces).strip())


def _value(piece: Any) -> str:
    if piece.owner == "env":
        if piece.field not in os.environ:
            raise HeadwayError(f"--from: the variable {piece.field} is not set", hint=f"export {piece.field}=…")
        return os.environ[piece.field]
    if piece.owner == "file":
        try:
            return Path(piece.field).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            told = getattr(error, "strerror", None) or "it is no text"
            raise HeadwayError(f"--from: {piece.field} cannot be read: {told}", hint="Correct the path.") from None
    raise HeadwayError(f"--from: {piece.text} cannot stand here", hint="Use {env.NAME} or {file.PATH}.")


def _with_password(url: str) -> str:
    from dataclasses import replace

    known = parse_url(url, path="--from", source="the command")
    if known.password or not os.environ.get("PGPASSWORD"):
        return url
    return compose_url(replace(known, password=os.environ["PGPASSWORD"]))
