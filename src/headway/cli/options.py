"""What the commands share: the options of most of them, and the system that they are about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

STATE = click.option(
    "--state", metavar="DIR", help="Folder for logs, data and state. Default: .headway beside the declaration."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")


class Group(click.Group):
    """Lists commands in the order in which a user meets them, and alone says what there is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:  # click's own way is a usage error with the whole help in it
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def root() -> Path:
    """The folder of the system this command is about: where a declaration or a state folder is, from here upwards."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if any((folder / name).exists() for name in (".headway", "headway.toml")):
            return folder
    return here


def system_at(state: str | None) -> Any:
    from headway.cli.start import system_of

    return system_of(state, root())
