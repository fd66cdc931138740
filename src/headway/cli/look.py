"""The commands that look at a running system or nudge it: status, scale, reload, down."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection
from typing import Any

import click

from headway.cli.show import status_lines, traffic_line
from headway.cli.start import System, adopt, only_start, stop_and_wait
from headway.cli.view import View, is_terminal
from headway.control.stored import Store
from headway.errors import HeadwayError
from headway.process.folders import remove_run
from headway.process.hung import end_if_it_hangs
from headway.process.record import has_leftovers, has_processes, read_record, supervisor_runs

_WAIT_S = 120.0
_STOP_S = 120.0
_TRIES = 2  # starts that fail before `scale` says so; the replica is tried on


def status(system: System, *, watch: bool, as_json: bool) -> None:
    """Show the status once, or until Ctrl-C."""
    document = system.client.status()
    if not watch:
        lines = [*status_lines(document), "", "  " + traffic_line(document)]
        click.echo(json.dumps(document) if as_json else "\n".join(lines))
        return
    view = View(live=is_terminal() and not as_json, hint="Ctrl-C stops watching, nothing else")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                document = system.client.status()
                if as_json:
                    click.echo(json.dumps(document))
                elif is_terminal():
                    view.update(document, [])
                else:
                    click.echo("\n".join([*status_lines(document), "", "  " + traffic_line(document), ""]))
                time.sleep(0.5 if is_terminal() else 2.0)
    finally:
        view.close()


def scale(system: System, service: str, count: int | None, *, wait: bool, as_json: bool) -> None:
    """Ask for another number of replicas, or (None) give it back, and wait until it holds."""
    asked = "auto" if count is None else count
    answer = system.client.ask("POST", "/scale", {"service": service, "replicas": asked})
    replicas = answer["replicas"]
    until_s = time.monotonic() + _WAIT_S
    while wait:
        document = system.client.status()
        found = document["services"].get(service)
        if found is None or (found["ready"] == found["wanted"] == len(found["replicas"])):
            break
        if found["wanted"] != replicas and answer["automatic"]:
            break  # the load has it already
        if found["wanted"] != replicas:
            raise HeadwayError(
                f"{service} was scaled to {found['wanted']} meanwhile", hint=f"headway explain {service}"
            )
        failing = next((one for one in found["replicas"] if _does_not_start(one)), None)
        if failing is not None:
            raise HeadwayError(
                f"{failing['name']} does not start: {failing['failure']}",
                hint=f"headway logs {failing['name']}; what it was before: headway scale {service} {answer['before']}",
            )
        if time.monotonic() > until_s:
            raise HeadwayError(
                f"{service}: {found['ready']} of {replicas} replicas ready after {_WAIT_S:.0f} s",
                hint=f"headway explain {service}",
            )
        time.sleep(0.05)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{service}: {answer['before']} → {answer['replicas']} replicas{_scaled_note(answer)}")


def _scaled_note(answer: dict[str, Any]) -> str:
    """What a new number of replicas means for the next one."""
    bounds = answer["range"]
    if answer["automatic"]:
        return f" ({bounds['min']}–{bounds['max']}, following the load)"
    if bounds is not None:
        return f"; it does not follow the load until: headway scale {answer['service']} auto"
    return "" if answer["replicas"] == answer["declared"] else f" (declared {answer['declared']})"


def reload(system: System, *, wait: bool, as_json: bool) -> None:
    """Have all replicas replaced by new ones, which run the source as it is now, and wait until they are."""
    former = _replicas(system.client.status())
    pids, failed = {one["pid"] for one in former if one["pid"]}, {one["name"] for one in former if one["failure"]}
    releases = {one["release"] for one in former}
    system.client.ask("POST", "/reload", {})
    seen: Any = None
    until_s = 0.0
    while True:
        document = system.client.status()
        services, replicas = document["services"], _replicas(document)
        settled = all(one["ready"] == one["wanted"] == len(one["replicas"]) for one in services.values())
        if not wait or (settled and not any(one["pid"] in pids for one in replicas)):
            break
        for one in replicas:
            if _does_not_start(one, releases) and one["name"] not in failed:
                raise HeadwayError(
                    f"{one['name']} does not start: {one['failure']}",
                    hint=f"headway logs {one['name']}; what ran before goes on, and it is tried again and again",
                )
        now = [(one["name"], one["pid"], one["state"]) for one in replicas]
        if now != seen:
            seen, until_s = now, time.monotonic() + _WAIT_S
        if time.monotonic() > until_s:
            raise HeadwayError(f"not all are replaced, and nothing changed for {_WAIT_S:.0f} s", hint="headway explain")
        time.sleep(0.05)
    told = {name: service["wanted"] for name, service in services.items()}
    if as_json:
        click.echo(json.dumps({"replicas": told, "replaced": wait}))
        return
    for name, count in told.items():
        click.echo(f"{name}: {count} replica{'' if count == 1 else 's'} {'replaced' if wait else 'to be replaced'}")


def _does_not_start(replica: dict[str, Any], former: Collection[str] | None = None) -> bool:
    """Whether it fails at its start again and again. One that was ready and has died or hung since is replaced, and
    that is no news of a start; of what it is (one of the `former` releases; None: all are) it has been ready once."""
    was_ready = replica["ready_once"] and (former is None or replica["release"] in former)
    return bool(replica["failure"]) and replica["restarts"] >= _TRIES and not was_ready


def _replicas(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [replica for service in document["services"].values() for replica in service["replicas"]]


def down(system: System, *, as_json: bool) -> None:
    """Stop the system and wait for its end; what outlived its supervisor is adopted first, to be stopped in order."""
    folders = system.folders
    name = Store(folders.state, folders.run).name() or "the system"
    _stop(system)
    if as_json:
        click.echo(json.dumps({"system": name, "stopped": True}))
    else:
        click.echo(f"{name} has stopped; its data stays in {folders.state}")


def _stop(system: System) -> None:
    record = read_record(system.folders)
    if record is not None and supervisor_runs(record) and end_if_it_hangs(system.folders, record):
        if not has_processes(record):  # in the foreground all has ended with it
            remove_run(system.folders)
            return
        record = read_record(system.folders)
    if not supervisor_runs(record):
        if not has_leftovers(record):
            system.client.status()  # raises that nothing runs
        else:
            with only_start(system):
                adopt(system)
    if not stop_and_wait(system, None, _STOP_S):
        raise HeadwayError(f"still stopping after {_STOP_S:.0f} s", hint="headway status --watch")
