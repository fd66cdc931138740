"""`headway walls`: every limit of this very system, and the rate at which it is met."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from headway.cli.start import System
from headway.control.stored import Store
from headway.declaration.load import load
from headway.errors import NotRunning
from headway.lab.wall_facts import Facts
from headway.lab.wall_look import look_at_declared, look_at_running
from headway.lab.walls import Wall, about, headline, how_to_measure, walls
from headway.model.units import format_bytes
from headway.process.record import has_leftovers, read_record, supervisor_runs

_WIDTH = 120


def show_walls(system: System, *, as_json: bool) -> None:
    """Look for a few seconds, and print the walls; of what is declared where nothing runs."""
    facts = _facts(system)
    found = walls(facts)
    if as_json:
        click.echo(json.dumps([wall.as_json() for wall in found]))
        return
    click.echo(headline(found, facts))
    if not any(wall.hit_at_per_s is not None for wall in found):
        click.echo(f"hint: {how_to_measure(facts)}")
    click.echo()
    width = min(_WIDTH, Console().width) if sys.stdout.isatty() else _WIDTH
    _print([wall for wall in found if wall.kind == "limit"], width)
    click.echo("\nWhat there is one of, and what happens when it is away:\n")
    _print_points([wall for wall in found if wall.kind == "single point"], width)


def _facts(system: System) -> Facts:
    try:
        applied = Store(system.folders.state, system.folders.run).load_applied()
        if applied is None:
            raise NotRunning("nothing runs here")
        return look_at_running(applied.system, system.folders, system.client)
    except NotRunning:
        record = read_record(system.folders)
        if supervisor_runs(record) or has_leftovers(record):
            raise  # it runs, but its controller is away
    # Beside the state folder lies the declaration; with --state elsewhere it is the one around this folder.
    beside = system.folders.state.parent
    cwd = beside if system.folders.state.name == ".headway" else Path.cwd()
    return look_at_declared(load(None, cwd=cwd, environment=os.environ).system, system.folders.state)


def amount(value: float | None, unit: str) -> str:
    """A number with its unit, as short as a column wants it."""
    if value is None:
        return "?"
    if unit == "bytes":
        return format_bytes(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2g}" if value < 100 else f"{value:,.0f}"


def rate(wall: Wall) -> str:
    """When it is hit, for its column."""
    if wall.hit_at_per_s is None:
        return "?" if wall.known == "unknown" else "–"
    if wall.known == "measured":
        return f"now, {wall.hit_at_per_s:,.0f}/s"
    return f"{about(wall.hit_at_per_s)}/s"


def _print(found: Sequence[Wall], width: int) -> None:
    table = _table()
    table.add_column("wall", min_width=18, max_width=26)
    for name in ("now", "limit", "hit at"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("then", ratio=4)
    table.add_column("next", ratio=5)
    for wall in found:
        row = (amount(wall.now, wall.unit), amount(wall.limit, wall.unit), rate(wall))
        table.add_row(wall.what, *row, wall.then, wall.next)
    _draw(table, width)


def _print_points(found: Sequence[Wall], width: int) -> None:
    table = _table()
    table.add_column("one", min_width=18, max_width=30)
    table.add_column("then", ratio=4)
    table.add_column("next", ratio=4)
    for wall in found:
        table.add_row(wall.what, wall.then, wall.next)
    _draw(table, width)


def _table() -> Table:
    return Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _draw(table: Table, width: int) -> None:
    # Words of ours hold brackets, which rich would take for its own marks; and nothing is to be coloured.
    console = Console(width=width, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
