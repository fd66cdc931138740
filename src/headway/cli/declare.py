"""The commands about the declaration itself: init and check."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from headway.cli.db_servers import by_hand_line
from headway.cli.preflight import check_certificate
from headway.cli.start import System, system_of
from headway.control.status import servers_line
from headway.control.stored import Store, servers_in_force
from headway.declaration.changes import changes, check_shards, shards_to_write
from headway.declaration.discover import discover
from headway.declaration.load import load
from headway.declaration.starter import starter_text, write_starter
from headway.errors import Conflict, HeadwayError
from headway.model.declared import System as Declared


def init(folder: Path, *, only_print: bool) -> None:
    """Write a declaration for the app in `folder`."""
    if not folder.is_dir():
        raise HeadwayError(f"{folder} is no folder here", hint="headway init FOLDER, or change to the app's folder")
    if only_print:
        click.echo(starter_text(discover(folder), folder.resolve().name), nl=False)
        return
    path = write_starter(folder)
    click.echo(path.read_text(), nl=False)
    click.echo(f"\n# written to {path}; next: headway check, then headway up")


def check(target: str | None, *, overlay: str | None, state: str | None, as_json: bool) -> None:
    """Load the declaration, and compare it with what runs."""
    loaded = load(target, cwd=Path.cwd(), environment=os.environ, overlay=overlay)
    check_certificate(loaded.system)
    system = system_of(state, loaded.root)
    running = system.client.is_running()
    applied = Store(system.folders.state, system.folders.run).load_applied() if running else None
    if applied is not None:
        try:
            check_shards(applied.system, loaded.system)
        except Conflict:
            check_shards(applied.system, loaded.system, _shards_now(system))
    found = changes(applied.system, loaded.system) if applied else ()
    by_hand = _by_hand(system, loaded.system) if running else []
    split = _split(system, loaded.system) if running else {}
    if as_json:
        warnings = [{"path": w.path, "message": w.message, "hint": w.hint} for w in loaded.warnings]
        warnings += [{"path": path, "message": told, "hint": ""} for path, told in split.items()]
        sentences = [change.sentence for change in found]
        click.echo(
            json.dumps(
                {
                    "source": loaded.source,
                    "warnings": warnings,
                    "running": running,
                    "changes": sentences,
                    "by_hand": by_hand,
                }
            )
        )
        return
    for warning in loaded.warnings:
        click.echo(f"warning: {warning.path}: {warning.message}")
        if warning.hint:
            click.echo(f"  hint: {warning.hint}")
    for path, told in split.items():
        click.echo(f"warning: {path}: {told}")
    click.echo(f"{loaded.source}: good")
    if not running:
        click.echo("nothing runs here; headway up starts it")
    elif not found:
        click.echo("what runs is what is declared")
    else:
        click.echo("headway up would change:")
        for change in found:
            click.echo(f"  {change.sentence}")
    for line in by_hand:
        click.echo(line)


def _by_hand(system: System, declared: Declared) -> list[str]:
    """Servers that are there by hand and stay when this declaration is applied."""
    held = servers_in_force(Store(system.folders.state, system.folders.run).load_servers(), declared)
    return [f"databases.{name}.servers: by hand; {by_hand_line(name, servers_line(one))}" for name, one in held.items()]


def _split(system: System, declared: Declared) -> dict[str, str]:
    """What to write for databases whose shards were doubled since, by path."""
    now = {name: database["shards"] for name, database in system.client.status()["databases"].items()}
    return shards_to_write(declared, now)


def _shards_now(system: System) -> dict[str, int]:
    """By database, how many shards there are: a split has doubled them."""
    found = system.client.ask("GET", "/db", timeout_s=60.0)["databases"]
    return {name: int(told["shards"]) for name, told in found.items()}
