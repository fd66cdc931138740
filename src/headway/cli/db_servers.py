"""`headway db add-server` and `remove-server`: a sharded database gets one more server, or does without one."""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from urllib.parse import urlencode

import click

from headway.cli.db import follow
from headway.cli.show import table
from headway.cli.start import System
from headway.declaration.references import parse
from headway.errors import HeadwayError
from headway.model.units import format_bytes
from headway.sharding.url import parse_url

_PLAN_S = 60.0


def add_server(system: System, database: str, name: str | None, url: str | None, *, as_json: bool) -> None:
    """Add a server, and say what comes next."""
    asked = {"database": database, "name": name, "url": url, "environ": _environ(url)}
    done = follow(system, "add-server", asked, quiet=as_json)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"{database} has servers {', '.join(done['servers'])}; {done['server']} holds no shard yet")
    _hint(database, done)
    stay = f"; those of {', '.join(done['away'])} stay until it answers again" if done["away"] else ""
    click.echo(f"hint: headway db rebalance {database} moves shards there{stay}")


def remove_server(system: System, database: str, server: str, *, yes: bool, as_json: bool) -> None:
    """Show which shards go where, move them, and let the server go."""
    query = urlencode({"database": database, "server": server})
    planned = system.client.ask("GET", f"/db/leaving?{query}", timeout_s=_PLAN_S)["moves"]
    if not as_json:
        _show(planned, server)
        if not yes and sys.stdin.isatty():
            click.confirm(f"Move {len(planned)} shards, and take server {server} out?", abort=True)
    done = follow(system, "remove-server", {"database": database, "server": server}, quiet=as_json)
    if as_json:
        click.echo(json.dumps(done))
        return
    rows = sum(one["rows"] for one in done["moves"])
    click.echo(f"{server} is out: {len(done['moves'])} shards with {rows:,} rows are on {', '.join(done['servers'])}")
    if done["data_folder"]:
        click.echo(f"its data stays in {done['data_folder']}")
    _hint(database, done)


def keep_server(system: System, database: str, server: str, *, as_json: bool) -> None:
    """Have a server stay that was about to leave."""
    asked = {"database": database, "server": server}
    done: dict[str, Any] = system.client.ask("POST", "/db/abort", asked, timeout_s=90.0)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"{server} stays, with {len(done['shards'])} shards")
    click.echo(f"hint: headway db rebalance {database} spreads them again")


def _hint(database: str, done: dict[str, Any]) -> None:
    if done["write"]:
        click.echo(f"hint: {by_hand_line(database, done['write'])}")


def by_hand_line(database: str, write: str) -> str:
    """What to do about the declaration."""
    if write.startswith("servers = "):
        return f"write {write} in [databases.{database}]"
    return f"in servers of [databases.{database}] {write}"


def _show(planned: list[dict[str, Any]], server: str) -> None:
    if not planned:
        click.echo(f"server {server} holds no shard")
        return
    rows: list[tuple[str, ...]] = [("shard", "from", "to", "about rows", "size")]
    for one in planned:
        rows.append((str(one["shard"]), one["from"], one["to"], f"{one['rows']:,}", format_bytes(one["bytes"])))
    click.echo("\n".join(table(rows, right=frozenset({0, 3, 4}))))


def _environ(url: str | None) -> dict[str, str]:
    """The variables that a URL refers to, as they are here; it is passed on as it would be declared."""
    if url is None:
        return {}
    try:
        pieces = [piece for piece in parse(url) if not isinstance(piece, str)]
    except ValueError as error:
        message, _, hint = str(error).partition("; ")
        raise HeadwayError(f"the server's URL {message}", hint=hint) from None
    if not pieces and parse_url(url, path="URL", source="the command").password:
        raise HeadwayError(
            "a password on the command line is seen by everybody on this machine",
            hint="Put the URL into a variable, '{env.NAME}', or a file, '{file.PATH}', and write that.",
        )
    names = [piece.field for piece in pieces if piece.owner == "env"]
    if lacking := [name for name in names if name not in os.environ]:
        raise HeadwayError(f"the variable {lacking[0]} is not set", hint=f"export {lacking[0]}=postgresql://…")
    return {name: os.environ[name] for name in names}
