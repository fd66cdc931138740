"""What a running system is behind of, though its declaration is in force: edited source, migrations, a certificate.

None of it comes in by `headway up`, which compares declarations. So it says what does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headway.cli.preflight import check_certificate
from headway.cli.start import System, watches_source
from headway.declaration.edited import last_edited
from headway.declaration.load import Loaded
from headway.errors import HeadwayError, NotRunning
from headway.process.linux import start_ticks

_POLL_S = 0.05
_MIGRATIONS_S = 30.0  # Alembic and Django start the app's own Python for it


def lines(system: System, loaded: Loaded, document: dict[str, Any]) -> Iterator[str]:
    """A sentence for each thing, with the command that mends it; none when all is as it is written."""
    if not watches_source(system):
        yield from _edited(loaded, document)
    yield from _certificate(loaded)
    yield from _migrations(system, loaded, document)


def _certificate(loaded: Loaded) -> Iterator[str]:
    """One that could not be served any more is served on, as it was, by what runs, and by that alone."""
    try:
        check_certificate(loaded.system)
    except HeadwayError as error:
        yield f"{error.message}: the one before is served on, but the next start needs a good one ({error.hint})"


def _edited(loaded: Loaded, document: dict[str, Any]) -> Iterator[str]:
    """One sentence for the services that were started before their source was last written."""
    newest = {folder: last_edited(Path(folder)) for folder in {one.folder for one in loaded.system.services.values()}}
    behind, file = [], ""
    for name, service in loaded.system.services.items():
        found = newest[service.folder]
        began_s = [
            at_s for one in document["services"].get(name, {}).get("replicas", ()) if (at_s := _began_s(one["pid"]))
        ]
        if found is not None and began_s and found[1] > min(began_s):
            behind.append(name)
            file = found[0]
    if behind:
        run = "run" if len(behind) > 1 else "runs"
        yield f"{', '.join(behind)} {run} source from before {file} was edited; what is there now: headway reload"


def _began_s(pid: int | None) -> float | None:
    """When a process started, in seconds since 1970; None when it has ended meanwhile."""
    ticks = start_ticks(pid) if pid else None
    if ticks is None:
        return None
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def _migrations(system: System, loaded: Loaded, document: dict[str, Any]) -> Iterator[str]:
    for name, database in loaded.system.databases.items():
        if database.migrations is None or document["databases"].get(name, {}).get("state") != "ready":
            continue
        try:
            lacking, count = _lacking(system, name)
        except HeadwayError as error:
            yield f"whether {name} lacks migrations is not known: {error.message}"
            continue
        if lacking:
            noun = "migration" if count == 1 else "migrations"
            yield f"{name} lacks {lacking} of {count} {noun}: headway db migrate {name}"


def _lacking(system: System, name: str) -> tuple[int, int]:
    """How many migrations a dry run would apply, and how many there are."""
    asked = {"database": name, "folder": None, "stamp": None, "dry_run": True}
    number = system.client.ask("POST", "/db/migrate", asked, timeout_s=_MIGRATIONS_S)["task"]
    until_s = time.monotonic() + _MIGRATIONS_S
    while time.monotonic() < until_s:
        found = system.client.ask("GET", f"/tasks/{number}?after=0")
        if failed := found["failed"]:
            raise HeadwayError(failed["message"], hint=failed["hint"])
        if found["ended"]:
            return len(found["result"]["applied"]), int(found["result"]["files"])
        time.sleep(_POLL_S)
    raise NotRunning(f"no answer within {_MIGRATIONS_S:.0f} s", hint=f"headway db migrate {name} --dry-run")
