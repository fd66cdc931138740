"""`headway db …`: sharded databases seen, moved, split, balanced, verified and migrated."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from headway.cli.show import mark, table
from headway.cli.start import System
from headway.errors import AppError, Conflict, HeadwayError, NotRunning
from headway.model.sharding import ShardMap, ShardServer
from headway.model.units import format_bytes
from headway.process.record import read_record, supervisor_runs
from headway.sharding.pgdog import pgdog

_POLL_S = 0.1
_LOOK_TIMEOUT_S = 60.0


def status(system: System, name: str | None, *, as_json: bool) -> None:
    """The map of one database or of all, and what is under way."""
    query = f"?{urlencode({'database': name})}" if name else ""
    found = system.client.ask("GET", f"/db{query}", timeout_s=_LOOK_TIMEOUT_S)["databases"]
    if as_json:
        click.echo(json.dumps({"databases": found}))
        return
    if not found:
        click.echo("no sharded database")
        return
    for database, told in found.items():
        keys = ", ".join(f"{one}.{key['column']} ({key['type']})" for one, key in told["keys"].items())
        click.echo(f"{database}  {told['shards']} shards, epoch {told['epoch']}, spread by {keys}\n")
        rows: list[tuple[str, ...]] = [("", "server", "state", "shards", "about rows", "size", "which")]
        for server in told["servers"]:
            size = format_bytes(server["bytes"]) if server["bytes"] is not None else "–"
            number = f"{server['rows']:,}" if server["rows"] is not None else "–"
            count = str(len(server["shards"]))
            which = ranges(server["shards"])
            rows.append((mark(server["state"]), server["name"], server["state"], count, number, size, which))
        click.echo("\n".join(table(rows, right=frozenset({3, 4, 5}))))
        if importing := told.get("import"):
            click.echo(f"\n  importing {importing['told'] or importing['stage']}")
        if restoring := told.get("restore"):
            click.echo(f"\n  restoring from {restoring['folder']}: {restoring['told'] or restoring['stage']}")
        if departing := told.get("departing"):
            left = f"{departing['left']} shards are still on it"
            click.echo(f"\n  server {departing['server']} is leaving: {departing['told'] or left}")
        for move in told["moves"]:
            click.echo(
                f"\n  moving shard {move['shard']}: {move['from']} → {move['to']}, {move['told'] or move['stage']}"
            )
        if told["split"] is not None:
            click.echo(f"\n  splitting {told['split']['told'] or told['split']['stage']}")
        elif told["shards"] != told["declared"]:
            click.echo(f"\n  declared are {told['declared']} shards: write shards = {told['shards']}")


def print_pgdog(system: System, name: str | None) -> None:
    """Where the shards of one database are, for PgDog."""
    if name is None:
        raise HeadwayError("--pgdog is about one database", hint="headway db status DATABASE --pgdog")
    found = system.client.ask("GET", f"/db?{urlencode({'database': name})}", timeout_s=_LOOK_TIMEOUT_S)["databases"]
    told = found[name]
    owner_of = {shard: server["name"] for server in told["servers"] for shard in server["shards"]}
    owners = tuple(owner_of[shard] for shard in range(told["shards"]))
    servers = {server["name"]: ShardServer(server["name"], server["url"]) for server in told["servers"]}
    click.echo(pgdog(ShardMap(name, told["epoch"], owners, servers)), nl=False)


def move(system: System, name: str, shard: int, target: str, *, as_json: bool) -> None:
    """Move a shard, and show how far it is."""
    done = follow(system, "move", {"database": name, "shard": shard, "to": target}, quiet=as_json)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(
        f"shard {shard} is on {done['to']}: {done['rows']:,} rows in {done['copy_s']:.1f} s, "
        f"writes stood still for {done['write_pause_ms']:.0f} ms, "
        f"{'verified row by row' if done['verified'] else 'not verified'}, epoch {done['epoch']}"
    )


def split(system: System, name: str, *, as_json: bool) -> None:
    """Double the shards, and show how far it is."""
    done = follow(system, "split", {"database": name}, quiet=as_json)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"{name} has {done['shards']} shards: {done['rows']:,} rows are on new ones, epoch {done['epoch']}")
    click.echo(f"hint: write {done['write']} in [databases.{name}]")


def abort(system: System, name: str, shard: int | None, *, as_json: bool) -> None:
    """Undo a move, or without a shard the split, that has not been committed."""
    asked = {"database": name, "shard": shard}
    done: dict[str, Any] = system.client.ask("POST", "/db/abort", asked, timeout_s=90.0)
    if shard is None:
        click.echo(json.dumps(done) if as_json else f"{name} keeps its {done['shards']} shards; the split is undone")
        return
    click.echo(json.dumps(done) if as_json else f"shard {shard} stays on {done['on']}; the move is undone")


def rebalance(
    system: System, name: str, *, empty: tuple[str, ...], by: str, over_s: float, yes: bool, as_json: bool
) -> None:
    """Show the plan, ask, and carry it out."""
    query = [("database", name), ("by", by), ("over_s", f"{over_s:g}"), *(("empty", server) for server in empty)]
    planned = system.client.ask("GET", f"/db/plan?{urlencode(query)}", timeout_s=_LOOK_TIMEOUT_S + over_s)
    moves: list[dict[str, Any]] = planned["moves"]
    if not as_json or not yes:
        _show_plan(planned, by, as_json=as_json)
    if not moves:
        if as_json and yes:
            click.echo(json.dumps({"moves": []}))
        return
    if not yes:
        if as_json or not sys.stdin.isatty():
            if not as_json:
                click.echo("nothing was moved; the same command with --yes carries it out")
            return
        click.confirm(f"Move {len(moves)} shards?", abort=True)
    # What was shown is what is done, however the load has changed since.
    done = follow(system, "rebalance", {"database": name, "moves": moves}, quiet=as_json)
    if as_json:
        click.echo(json.dumps(done))
        return
    pauses = [float(one["write_pause_ms"]) for one in done["moves"]]
    most_ms = max(pauses, default=0.0)
    click.echo(f"{len(pauses)} shards moved; writes to one stood still for {most_ms:.0f} ms at most")


def _show_plan(planned: dict[str, Any], by: str, *, as_json: bool) -> None:
    moves: list[dict[str, Any]] = planned["moves"]
    if as_json:
        click.echo(json.dumps({"plan": moves, "servers": planned["servers"], "away": planned["away"]}))
        return
    for one in planned["away"]:
        click.echo(
            f"server {one['name']} is {one['state']}: its {one['shards']} shards stay there, and none goes there"
        )
    servers: list[tuple[str, ...]] = [("server", "shards", "", "size", "", "rows/s", "")]
    for one in planned["servers"]:
        shards = one["shards"]
        before, after = map(format_bytes, one["bytes"])
        load = [f"{each:,.0f}" for each in one["rows_per_s"]] if by != "rows" else ["–", "–"]
        servers.append((one["name"], str(shards[0]), f"→ {shards[1]}", before, f"→ {after}", load[0], f"→ {load[1]}"))
    if not moves:
        which = "the servers that answer" if planned["away"] else "the servers"
        click.echo(f"nothing to move: {which} carry about the same")
        return
    rows: list[tuple[str, ...]] = [("shard", "from", "to", "size", "rows/s")]
    for one in moves:
        load_told = f"{one['rows_per_s']:,.0f}" if by != "rows" else "–"
        rows.append((str(one["shard"]), one["source"], one["target"], format_bytes(one["bytes"]), load_told))
    click.echo("\n".join(table(servers, right=frozenset({1, 3, 5}))) + "\n")
    click.echo("\n".join(table(rows, right=frozenset({0, 3, 4}))))


def verify(system: System, name: str, *, as_json: bool) -> bool:
    """Hold the servers against the map; whether nothing is wrong."""
    query = urlencode({"database": name})
    found = system.client.ask("GET", f"/db/verify?{query}", timeout_s=_LOOK_TIMEOUT_S)
    if as_json:
        click.echo(json.dumps(found))
    elif found["complete"]:
        click.echo(f"{name} is complete: every shard is where the map has it, and alike")
    else:
        for word in ("missing", "extra", "different"):
            for line in found[word]:
                click.echo(f"{word:9}  {line}")
        click.echo(f"hint: headway db repair {name} says what can be done")
    return bool(found["complete"])


def migrate(system: System, name: str, folder: str | None, stamp: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Apply migrations to a database, or record them; it is not sharded where it tells of no shards."""
    place = str(Path(folder).resolve()) if folder else None
    asked = {"database": name, "folder": place, "stamp": stamp, "dry_run": dry_run}
    done = follow(system, "migrate", asked, quiet=as_json)
    if as_json:
        click.echo(json.dumps(done))
        return
    shards, files = done["shards"], done["files"]
    where = f"{shards} shards" if shards else name
    if stamp is not None:
        word = "would be recorded" if dry_run else "recorded"
        if count := len(done["stamped"]):
            click.echo(f"{count} migrations {word} as applied to {where}")
        else:
            click.echo(f"nothing to record: all up to {stamp} are recorded as applied to {where}")
    elif not done["applied"]:
        have = f"{where} have" if shards else f"{where} has"
        click.echo(f"nothing to apply: {have} all {files} migrations")
    else:
        word = "would be applied" if dry_run else "applied"
        click.echo(f"{len(done['applied'])} of {files} migration{'' if files == 1 else 's'} {word} to {where}")


def follow(system: System, verb: str, asked: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Start a task, print its lines, and give its result; its error is raised here."""
    number = system.client.ask("POST", f"/db/{verb}", asked, timeout_s=30.0)["task"]
    seen = 0
    try:
        while True:
            found = _heard(system, verb, number, seen)
            seen += len(found["lines"])
            if not quiet:
                for line in found["lines"]:
                    click.echo(line)
            if found["ended"]:
                break
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        click.echo(f"\nonly this command ends: what it began, {verb}, goes on in the controller", err=True)
        raise
    if failed := found["failed"]:
        kind = {"AppError": AppError, "Conflict": Conflict}.get(failed["kind"], HeadwayError)
        raise kind(failed["message"], hint=failed["hint"])
    result: dict[str, Any] = found["result"]
    return result


def _heard(system: System, verb: str, number: int, seen: int) -> dict[str, Any]:
    """What a task says. Its number means nothing to the next controller, so one that died is not waited for."""
    try:
        found: dict[str, Any] = system.client.ask("GET", f"/tasks/{number}?after={seen}")
        return found
    except NotRunning as error:
        if not supervisor_runs(read_record(system.folders)):
            raise  # nothing runs any more, and that is what it says
        raise NotRunning(
            f"the controller died while it was at work: {verb}",
            hint="the next one goes on with moves, splits, imports and restores: headway db status. "
            "Anything else: run the command again",
        ) from error


def ranges(numbers: list[int]) -> str:
    """Numbers in few words: `0–31, 40`."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    words = [str(first) if first == last else f"{first}–{last}" for first, last in found]
    return ", ".join(words[:8]) + (f", … ({len(numbers)} in all)" if len(words) > 8 else "")
