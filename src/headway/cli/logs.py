"""`headway logs`: the output of every part, straight from the files the processes write."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import click

from headway.cli.start import System
from headway.control.journal import is_of
from headway.errors import HeadwayError, NotRunning

_TAIL_MAX_BYTES = 4 << 20
_POLL_S = 0.2


def logs(system: System, name: str | None, *, follow: bool, last: int, as_json: bool) -> None:
    """Print the last lines of the logs that `name` means, and go on with new ones when asked to."""
    folder = system.folders.logs
    if not folder.is_dir():
        raise NotRunning(f"there are no logs in {system.folders.state}", hint="headway up starts the system")
    names = _names(folder, name)
    width = max(len(found) for found in names)

    def show(found: str, line: str) -> None:
        if as_json:
            click.echo(json.dumps({"name": found, "line": line}))
        else:
            click.echo(f"{found:<{width}}  {line}" if len(names) > 1 or follow else line)

    positions = {}
    for found in names:
        lines, positions[found] = _tail(folder / f"{found}.log", last)
        for line in lines:
            show(found, line)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            for found, line in _follow(folder, name, positions):
                show(found, line)


def _names(folder: Path, name: str | None) -> list[str]:
    every = sorted(entry.name.removesuffix(".log") for entry in os.scandir(folder) if entry.name.endswith(".log"))
    if name is None:
        # The access log has a line for each request: it is shown when asked for.
        return [found for found in every if found != "access"] or every
    found = [known for known in every if is_of(known, name)]
    if not found:
        raise HeadwayError(f"there is no log of {name!r}", hint=f"logs are: {', '.join(every)}")
    return found


def _tail(path: Path, last: int) -> tuple[list[str], int]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_MAX_BYTES))
            data = file.read()
    except OSError:
        return [], 0
    lines = data.decode(errors="replace").splitlines()
    return (lines[-last:] if last else []), size


def _follow(folder: Path, name: str | None, positions: dict[str, int]) -> Iterator[tuple[str, str]]:
    rest: dict[str, bytes] = {}
    while True:
        time.sleep(_POLL_S)
        with contextlib.suppress(HeadwayError, OSError):
            for found in _names(folder, name):
                positions.setdefault(found, 0)
        for found in sorted(positions):
            with contextlib.suppress(OSError), (folder / f"{found}.log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < positions[found]:  # rotated by copy and truncate
                    positions[found] = 0
                if size == positions[found]:
                    continue
                file.seek(positions[found])
                data = rest.pop(found, b"") + file.read(_TAIL_MAX_BYTES)
                positions[found] = file.tell()
                *lines, rest[found] = data.split(b"\n")
                for line in lines:
                    yield found, line.decode(errors="replace")
