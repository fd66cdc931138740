"""`headway up`: starts the system, or applies the difference to one that runs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headway.cli import behind
from headway.cli.preflight import check_start
from headway.cli.show import status_lines
from headway.cli.start import System, await_controller, await_ready, only_start, start, system_of, watches_source
from headway.cli.view import View, is_terminal
from headway.control.journal import read_journal
from headway.control.stored import Store, servers_in_force, with_servers
from headway.declaration.changes import shards_to_write
from headway.declaration.load import Loaded, load
from headway.declaration.references import parse, resolve_servers
from headway.errors import Conflict, DeclarationError, EngineError, HeadwayError, NotRunning
from headway.process.detach import Started
from headway.process.hung import end_if_it_hangs
from headway.process.record import has_leftovers, has_processes, read_record, supervisor_runs

_APPLY_S = 3600.0
_CONTROLLER_S = 30.0  # one that died is back within a second, of a busy machine ten; one that cannot start stays away
_SETTLE_S = 3.0  # until the edge shows what was applied; it may be degraded for other reasons
_VIEW_EVERY_S = 0.5
_PIPED_EVERY_S = 0.25
_REST_MAX = 500


def up(
    target: str | None, *, state: str | None, overlay: str | None, detach: bool, reload: bool
) -> tuple[dict[str, Any], bool]:
    """Start or apply; the last status document and whether the system runs on. In the foreground it has ended then."""
    loaded = load(target, cwd=Path.cwd(), environment=os.environ, overlay=overlay)
    for warning in loaded.warnings:
        print(f"warning: {warning.path}: {warning.message}", file=sys.stderr)
    system = system_of(state, loaded.root)
    running = _running(system)
    if running is not None and running["supervisor"] == "ready":
        _check_reload(system, reload)
        return _apply(system, loaded), True
    _check_by_hand(system, loaded)
    # A system that outlived its supervisor keeps its addresses and its declaration until the new one is applied.
    record = read_record(system.folders)
    check_start(loaded.system, check_addresses=running is None and not has_processes(record))
    with only_start(system):
        if running is not None and running["supervisor"] == "silent":
            _end_what_hangs(system)
        running = _running(system)
        if running is not None and running["supervisor"] == "ready":
            _check_reload(system, reload)
            return _apply(system, loaded), True  # another `up` has just started it, or its supervisor goes on
        adopts = running is not None or has_leftovers(record)
        started = start(system, loaded, detached=detach, reload=reload, keep_applied=adopts)
        if adopts and detach:
            await_controller(system, started)
            return _apply(system, loaded), True
        return _follow(system, loaded, started, detach=detach, adopts=adopts), detach


def _end_what_hangs(system: System) -> None:
    record = read_record(system.folders)
    if record is None or not supervisor_runs(record):
        return
    print("the supervisor does not answer: it is told to go on, or ended", file=sys.stderr, flush=True)
    if end_if_it_hangs(system.folders, record):
        return
    with contextlib.suppress(HeadwayError):  # it goes on: the controller hears of it in a moment
        until_s = time.monotonic() + _CONTROLLER_S
        while system.client.status()["supervisor"] == "silent" and time.monotonic() < until_s:
            time.sleep(0.05)


def _check_reload(system: System, reload: bool) -> None:
    """Conflict where source files are to be watched by a system that was started without."""
    if reload and not watches_source(system):
        raise Conflict(
            "the system runs already, and without --reload", hint="headway down, then headway up --reload once more"
        )


def _check_by_hand(system: System, loaded: Loaded) -> None:
    """HeadwayError where the URL of a server that was added by hand has no value here."""
    by_hand = Store(system.folders.state, system.folders.run).load_servers()
    for name, entry in servers_in_force(by_hand, loaded.system).items():
        try:
            database = with_servers(loaded.system.databases[name], entry)
            resolve_servers(database, environment=os.environ, root=loaded.root)
        except DeclarationError as error:
            problem = error.problems[0]
            raise HeadwayError(
                f"databases.{name}.{problem.path}, which was added by hand: {problem.message}", hint=problem.hint
            ) from None


def _running(system: System) -> dict[str, Any] | None:
    """The status; None when nothing runs. A controller that is being restarted is waited for."""
    until_s = time.monotonic() + _CONTROLLER_S
    while True:
        try:
            return system.client.status()
        except NotRunning:
            if not supervisor_runs(read_record(system.folders)):
                return None
        except HeadwayError:
            pass  # it is there, and has more to do than to answer
        if time.monotonic() > until_s:
            raise Conflict(
                f"a supervisor runs here, but its controller has not answered for {_CONTROLLER_S:.0f} s",
                hint="headway logs controller; headway down ends it",
            )
        time.sleep(0.05)


def _still_running(system: System) -> dict[str, Any]:
    """The status of what ran a moment ago."""
    document = _running(system)
    if document is None:
        raise NotRunning("nothing runs any more", hint="headway up starts it")
    return document


def _apply(system: System, loaded: Loaded) -> dict[str, Any]:
    data = {
        "system": loaded.system.model_dump(mode="json"),
        "root": str(loaded.root),
        "source": loaded.source,
        "environ": _environ(loaded),
    }
    found = system.client.ask("POST", "/apply", data, timeout_s=_APPLY_S)
    if found["changes"]:
        for sentence in found["changes"]:
            print(f"  {sentence}", file=sys.stderr)
    else:
        print("nothing changed", file=sys.stderr)
    until_s = time.monotonic() + _SETTLE_S
    while (document := _still_running(system))["state"] == "degraded" and time.monotonic() < until_s:
        time.sleep(0.05)
    _tell_of_shards(loaded, document)
    _tell_behind(system, loaded, document)
    return document


def _tell_of_shards(loaded: Loaded, document: dict[str, Any]) -> None:
    """A split has doubled them, and the declaration says how many there were."""
    now = {name: database["shards"] for name, database in document["databases"].items()}
    for path, told in shards_to_write(loaded.system, now).items():
        print(f"warning: {path}: {told}", file=sys.stderr, flush=True)


def _tell_behind(
    system: System, loaded: Loaded, document: dict[str, Any], is_interrupted: Callable[[], bool] = lambda: False
) -> None:
    """What the declaration does not say, and `up` does not bring in."""
    for line in behind.lines(system, loaded, document):
        if is_interrupted():
            return  # what is stopping answers no more questions
        print(f"note: {line}", file=sys.stderr, flush=True)


def _environ(loaded: Loaded) -> dict[str, str]:
    """The variables that the declaration refers to, as they are here: the running system may know other values."""
    texts = [text for service in loaded.system.services.values() for text in service.env.values()]
    texts += [url for database in loaded.system.databases.values() for url in database.urls.values()]
    texts += [text for cache in loaded.system.caches.values() for text in cache.texts.values()]
    pieces = [piece for text in texts for piece in parse(text) if not isinstance(piece, str)]
    return {
        piece.field: os.environ[piece.field] for piece in pieces if piece.owner == "env" and piece.field in os.environ
    }


def _patience_s(loaded: Loaded) -> float:
    return 60.0 + sum(service.start_timeout_s * 2 for service in loaded.system.services.values())


def _follow(system: System, loaded: Loaded, started: Started, *, detach: bool, adopts: bool) -> dict[str, Any]:
    interrupted: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        interrupted.append(number)
        if len(interrupted) == 1:
            with contextlib.suppress(OSError):  # print would fail in the middle of another print
                os.write(2, b"\nstopping: replicas finish what they have (Ctrl-C again to hurry)\n")
        started.terminate()

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        seen = _Journal(system)
        view = View(live=is_terminal() and not detach, hint="Ctrl-C stops everything in order")
        try:
            document = await_ready(
                system,
                started,
                on_status=lambda found: view.update(found if not detach else None, seen.fresh()),
                patience_s=_patience_s(loaded),
                is_interrupted=lambda: bool(interrupted),
            )
            if not adopts and not interrupted:
                _tell_of_shards(loaded, document)
                _tell_behind(system, loaded, document, lambda: bool(interrupted))
            if detach:
                return document
            if not interrupted:
                if adopts:
                    document = _apply_or_tell(system, loaded, document)
                _announce(document, view)
            _watch(system, started, view, seen, interrupted)
        finally:
            view.close()
        return document
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _apply_or_tell(system: System, loaded: Loaded, document: dict[str, Any]) -> dict[str, Any]:
    """Apply the declaration to what was adopted; when that cannot be done, what was adopted runs on."""
    try:
        return _apply(system, loaded)
    except HeadwayError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        print("what ran before runs on with the former declaration", file=sys.stderr, flush=True)
        return document


def _announce(document: dict[str, Any], view: View) -> None:
    if not is_terminal():
        print("\n".join(status_lines(document)), flush=True)


class _Journal:
    """Entries of the controller's journal, each given once; a new controller counts anew."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._after = 0
        self._pid = 0
        self._last: dict[str, Any] = {}

    def fresh(self) -> list[dict[str, Any]]:
        try:
            answer = self._ask(self._after)
            if self._pid and answer["pid"] != self._pid:
                answer = self._ask(0)
        except HeadwayError:
            return []  # all of it comes with the next look, as long as nothing is noted of this one
        self._pid = answer["pid"]
        entries: list[dict[str, Any]] = answer["entries"]
        if entries:
            self._after = entries[-1]["number"]
            self._last = {key: value for key, value in entries[-1].items() if key != "number"}
        return entries

    def _ask(self, after: int) -> dict[str, Any]:
        answer: dict[str, Any] = self._system.client.ask("GET", f"/journal?after={after}", timeout_s=2.0)
        return answer

    def rest(self) -> list[dict[str, Any]]:
        """What was written after the last one given, from the file: an end may be quicker than the next look."""
        entries = read_journal(self._system.folders.journal, None, _REST_MAX)
        after = [at for at, entry in enumerate(entries, start=1) if entry == self._last]
        return entries[after[-1] :] if after else []


def _watch(system: System, started: Started, view: View, seen: _Journal, interrupted: list[int]) -> None:
    every_s = _VIEW_EVERY_S if is_terminal() else _PIPED_EVERY_S
    while started.poll() is None:
        document = None
        with contextlib.suppress(HeadwayError):
            document = system.client.status()
        view.update(document, seen.fresh())
        _sleep_until(started, every_s)
    view.update(None, seen.rest())
    status = started.poll()
    if interrupted or status == 0:
        view.end()
        print("stopped", file=sys.stderr)
        return
    raise EngineError(
        f"the supervisor ended unexpectedly (status {status}); everything it started ends with it",
        hint="headway up starts clean",
    )


def _sleep_until(started: Started, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while started.poll() is None and (left_s := until_s - time.monotonic()) > 0:
        time.sleep(min(0.05, left_s))
