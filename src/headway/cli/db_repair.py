"""`headway db repair`: what is wrong with a sharded database, what can be mended, and what a person has to decide."""

from __future__ import annotations

import json
from typing import Any

import click

from headway.cli.db import follow
from headway.cli.start import System


def repair(system: System, name: str, keep: tuple[str, ...], *, apply: bool, as_json: bool) -> bool:
    """Show the plan, or carry it out; whether nothing is wrong (any more)."""
    asked = {"database": name, "apply": apply, "keep": list(keep)}
    found = follow(system, "repair", asked, quiet=as_json)
    if as_json:
        click.echo(json.dumps(found))
        return bool(found["complete"])
    for one in found["mends"]:
        click.echo(f"mend    {_line(one)}")
    for one in found["decisions"]:
        click.echo(f"decide  {_line(one)}")
    for server in found["away"]:
        click.echo(f"away    server {server} does not answer: what it holds is not known")
    for line in found["kept"]:
        click.echo(f"kept    {line}: look whether anybody needs its rows, then drop it")
    click.echo(_sum(name, found, apply=apply))
    return bool(found["complete"])


def _line(one: dict[str, str]) -> str:
    return f"{one['what']}; {one['why']}: {one['how']}"


def _sum(name: str, found: dict[str, Any], *, apply: bool) -> str:
    mends, decisions = len(found["mends"]), len(found["decisions"])
    words = [f"{len(found['applied'])} mended"] if found["applied"] else []
    if found["complete"]:
        return "; ".join([*words, f"{name} is whole: nothing is wrong with its shards, links and rights"])
    if mends:
        words.append(f"{mends} left" if apply else f"headway db repair {name} --apply carries out {mends}")
    if decisions:
        words.append(f"{decisions} for a person to decide")
    if found["away"]:
        words.append(f"{len(found['away'])} servers do not answer")
    return "; ".join(words)
