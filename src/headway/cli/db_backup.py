"""`headway db backup` and `restore`: a database over all its servers, as a folder, and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from headway.cli.db import follow
from headway.cli.start import System
from headway.errors import HeadwayError
from headway.model.units import format_bytes


def backup(system: System, name: str, folder: str | None, *, as_json: bool) -> None:
    """Take a backup, and show how far it is."""
    place = Path(folder) if folder else system.folders.state / "backups" / f"{name}-{_now()}"
    done = follow(system, "backup", {"database": name, "folder": str(place.resolve())}, quiet=as_json)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"{name} is backed up in {done['folder']}: {_what(done)}")


def restore(system: System, name: str, folder: str | None, *, replace: bool, abort: bool, as_json: bool) -> None:
    """Bring a backup back, or undo that."""
    if abort == (folder is not None):
        raise HeadwayError("db restore needs a folder, or --abort", hint=f"headway db restore {name} FOLDER")
    if abort:
        done = follow(system, "restore", {"database": name, "abort": True}, quiet=as_json)
        click.echo(json.dumps(done) if as_json else f"the restore is undone; {name} is as before")
        return
    asked = {"database": name, "folder": str(Path(str(folder)).resolve()), "replace": replace}
    done = follow(system, "restore", asked, quiet=as_json)
    if as_json:
        click.echo(json.dumps(done))
    elif not done["shards"]:
        click.echo(f"{name} is restored from {done['folder']}")
    else:
        click.echo(
            f"{name} is restored from {done['folder']}: {done['shards']} shards, {done['rows']:,} rows, "
            f"the app was kept out for {done['closed_s']:.1f} s, epoch {done['epoch']}"
        )


def _what(done: dict[str, Any]) -> str:
    size = format_bytes(int(done["bytes"]))
    if not done["shards"]:
        return f"{size}, of one moment"
    return (
        f"{done['shards']} shards, {done['rows']:,} rows, {size}; all servers within {done['apart_ms']:.0f} ms, "
        f"transactions over shards stood still for {done['lock_held_ms']:.0f} ms"
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
