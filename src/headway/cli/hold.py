"""`headway hold`: what an automatic step would undo, or must not touch while somebody looks, is pinned for a time."""

from __future__ import annotations

import json
import os
import pwd

import click

from headway.cli.show import held_line
from headway.cli.start import System
from headway.errors import HeadwayError
from headway.model.units import parse_duration_s


def hold(
    system: System, service: str | None, *, limit: int | None, replicas: int | None, duration: str, as_json: bool
) -> None:
    """Pin a service, or all of them; without numbers each stays as it is."""
    try:
        for_s = parse_duration_s(duration)
    except ValueError as error:
        what, _, instead = str(error).partition("; ")
        raise HeadwayError(f"--for: {what}", hint=instead) from error
    asked = {"service": service, "limit": limit, "replicas": replicas, "for_s": for_s, "by": user()}
    answer = system.client.ask("POST", "/hold", asked)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for name, held in answer["holds"].items():
        click.echo(held_line(name, held))
    click.echo(f"until then, or: headway hold {f'{service} ' if service else ''}--release")


def release(system: System, service: str | None, *, as_json: bool) -> None:
    """Let go of a service, or of all that are held."""
    answer = system.client.ask("POST", "/release", {"service": service, "by": user()})
    if as_json:
        click.echo(json.dumps(answer))
    elif answer["released"]:
        click.echo(f"released: {', '.join(answer['released'])}")
    else:
        click.echo(f"{service} was not held" if service else "nothing was held")


def user() -> str:
    """Who types this, for the journal; behind sudo the person, not root."""
    name = os.environ.get("SUDO_USER", "")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"
