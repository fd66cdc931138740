"""`headway explain`: why something was done, from the journal; and what a request spent its time on, from its spans."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time

import click

from headway.cli.show import journal_line
from headway.cli.start import System
from headway.cli.waterfall import waterfall_document, waterfall_lines
from headway.control.journal import is_of, read_journal
from headway.control.stored import Store
from headway.control.trace_files import REQUEST_ID, Found, find, oldest_s
from headway.control.waterfall import waterfall
from headway.errors import HeadwayError, NotRunning

_EDGES_OWN = re.compile(r"[0-9a-f]{32}")
_ALL = 1 << 20  # entries of a journal: more than its two files hold
_FRESH_S, _AGAIN_S, _TRIES = 1.5, 0.3, 6  # replicas write their spans a few times a second, where they have the time


def explain(system: System, what: str | None, *, last: int, as_json: bool) -> None:
    """Show the journal, or the one request whose id is given; both outlive the system."""
    if what is not None and _EDGES_OWN.fullmatch(what):
        _explain_request(system, what, _find(system, what), as_json=as_json)
        return
    if not system.folders.journal.exists():
        raise NotRunning(f"there is no journal in {system.folders.state}", hint="headway up starts the system")
    entries = read_journal(system.folders.journal, what, last)
    if not entries and what is not None and REQUEST_ID.fullmatch(what):
        found = find(system.folders, what)
        if found.spans:
            _explain_request(system, what, _find(system, what), as_json=as_json)
            return
    if not entries and what is not None:
        _check_part(system, what)
    if as_json:
        click.echo(json.dumps({"entries": entries}))
    elif entries:
        click.echo("\n".join(journal_line(entry) for entry in entries))
    else:
        click.echo(f"nothing was done about {what} lately" if what else "nothing was done lately")


def _check_part(system: System, name: str) -> None:
    """HeadwayError naming what there is, when no part goes by this name: none declared, in the journal, with a log."""
    folders = system.folders
    parts = {"edge", "controller", *(entry["about"] for entry in read_journal(folders.journal, None, _ALL))}
    with contextlib.suppress(OSError):
        parts |= {log.name.removesuffix(".log") for log in os.scandir(folders.logs) if log.name.endswith(".log")}
    applied = Store(folders.state, folders.run).load_applied()
    if applied is not None:
        declared = applied.system
        parts |= {*declared.services, *(f"database.{each}" for each in declared.databases)}
        parts |= {f"cache.{each}" for each in declared.caches}
    if any(is_of(part, name) for part in parts):
        return
    names = {part.removeprefix("database.").removeprefix("cache.").partition(".")[0] for part in parts - {"access"}}
    raise HeadwayError(
        f"there is no part {name!r}, and no request with this id is known",
        hint=f"parts are: {', '.join(sorted(names))}; a request is known by the X-Request-Id of its answer",
    )


def _find(system: System, request: str) -> Found:
    """What is known of a request, once nothing more is to come of one that has just ended."""
    found = find(system.folders, request)
    for _ in range(_TRIES):
        if found.spans and time.time() - found.end_s > _FRESH_S:
            break
        time.sleep(_AGAIN_S)
        found = find(system.folders, request)
    return found


def _explain_request(system: System, request: str, found: Found, *, as_json: bool) -> None:
    if not found.spans:
        raise _unknown(system, request)
    ordered = waterfall(found.spans)
    if as_json:
        click.echo(json.dumps(waterfall_document(ordered, request, found.dropped)))
        return
    begin_s, rest_ns = divmod(ordered.begin_ns, 10**9)
    when = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(begin_s))}.{rest_ns // 10**6:03d}"
    columns = shutil.get_terminal_size((110, 24)).columns
    lines = waterfall_lines(ordered, request, when, width=columns, dropped=found.dropped)
    click.echo("\n".join(lines))


def _unknown(system: System, request: str) -> HeadwayError:
    if not system.folders.logs.is_dir():
        return NotRunning(f"there are no logs in {system.folders.state}", hint="headway up starts the system")
    since_s = oldest_s(system.folders)
    kept = (
        f"the access log goes back to {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(since_s))}"
        if since_s is not None
        else "the access log holds none: access_log in [edge] may be false"
    )
    return HeadwayError(
        f"nothing is known of request {request}",
        hint=f"{kept}; three files of 16 MiB of it are kept, and two of each replica's spans",
    )
