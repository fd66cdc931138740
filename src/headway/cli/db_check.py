"""`headway db check`: whether the servers of a sharded database allow what it needs, and what to change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import click

from headway.cli.show import table
from headway.cli.start import System

_MARKS = {"ok": "✓", "warning": "!", "missing": "✗"}


def check(system: System, name: str, *, as_json: bool) -> bool:
    """Print the findings of every server; whether nothing is missing."""
    query = urlencode({"database": name})
    servers = system.client.ask("GET", f"/db/check?{query}", timeout_s=60.0)["servers"]
    missing = [one for found in servers.values() for one in found if one["level"] == "missing"]
    if as_json:
        click.echo(json.dumps({"servers": servers, "complete": not missing}))
        return not missing
    for server, found in servers.items():
        click.echo("\n".join([server, "", *finding_lines(found), ""]))
    things = "1 thing is missing" if len(missing) == 1 else f"{len(missing)} things are missing"
    click.echo(f"{things}; its hint says what to do" if missing else "nothing is missing")
    return not missing


def finding_lines(found: Sequence[Mapping[str, str]]) -> list[str]:
    """The findings of a server under each other, and below each that is not as it should be what to change."""
    lines = []
    for line, one in zip(table([(_MARKS[o["level"]], o["what"], o["found"]) for o in found]), found, strict=True):
        lines.append(line)
        if one["change"]:
            lines.append(f"     hint: {one['change']}")
    return lines
