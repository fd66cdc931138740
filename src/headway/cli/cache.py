"""`headway cache …`: how caches are used, what they hold, how they are emptied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import click

from headway.cli.show import mark, table
from headway.cli.start import System
from headway.model.units import format_bytes, format_duration

_LOOK_TIMEOUT_S = 30.0
_FLUSH_TIMEOUT_S = 180.0


def stats(system: System, name: str | None, *, as_json: bool) -> None:
    """Print the counts of one cache or of all."""
    query = f"?{urlencode({'cache': name})}" if name else ""
    found = system.client.ask("GET", f"/cache{query}", timeout_s=_LOOK_TIMEOUT_S)
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found["caches"]:
        click.echo("no cache is declared")
    for number, (cache, told) in enumerate(found["caches"].items()):
        if number:
            click.echo()
        click.echo("\n".join(stats_lines(cache, told)))


def stats_lines(name: str, told: Mapping[str, Any]) -> list[str]:
    """One cache for a person."""
    head = f"{mark(told['state'])} {name}  {told['state']}  {told['url']}"
    if told["server"] is None:
        return [head, "  apps go on without it: from the tier in each process, and by loading"]
    server = told["server"]
    most = f" of {format_bytes(server['max_bytes'])}" if server["max_bytes"] else ", unbounded"
    lines = [
        head,
        f"  {server['name']} {server['version']}  {format_bytes(server['used_bytes'])}{most}  {server['keys']:,} keys  "
        f"{server['evicted']:,} evicted  {server['connected']:,} connections  {server['commands_per_s']:,} commands/s",
    ]
    # `=` stands for values kept under names of the app's own; many apps have none.
    functions = {n: counts for n, counts in told["functions"].items() if n != "=" or counts["calls"]}
    if not functions:
        return [*lines, "", "  no process of an app has counted anything in the last seconds"]
    heads = ("function", "calls", "hit ratio", "in process", "loads", "load takes", "waits", "stale", "errors")
    rows: list[tuple[str, ...]] = [heads]
    rows += [("values by name" if n == "=" else n, *_counts(counts)) for n, counts in functions.items()]
    if len(functions) > 1:
        rows.append(("all", *_counts(told["total"])))
    lines += ["", *table(rows, right=frozenset(range(1, len(heads))))]
    total = told["total"]
    parts = ["1 process" if told["processes"] == 1 else f"{told['processes']} processes"]
    if total.get("bypassed"):
        parts.append(f"{total['bypassed']:,} requests went past")
    if total.get("bytes_near"):
        parts.append(f"{format_bytes(total['bytes_near'])} in them")
    if total.get("evicted"):
        parts.append(f"{total['evicted']:,} evicted there")
    lines += ["", "  " + ", ".join(parts)]
    if not told["complete"]:
        lines.append("  not all processes were found: the server holds too many keys to look through")
    return lines


def _counts(counts: Mapping[str, Any]) -> tuple[str, ...]:
    took = format_duration(counts["load_ms"] / 1000) if counts["load_ms"] is not None else "–"
    return (
        f"{counts['calls']:,}",
        _percent(counts["hit_ratio"]),
        _percent(counts["near_ratio"]),
        f"{counts.get('loads', 0):,}",
        took,
        f"{counts.get('waits', 0):,}",
        f"{counts.get('stale', 0):,}",
        f"{counts.get('errors', 0):,}",
    )


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio * 100:.1f} %"


def inspect(system: System, name: str, key: str, *, as_json: bool) -> None:
    """Print the values whose key contains `key`."""
    query = urlencode({"cache": name, "key": key})
    found = system.client.ask("GET", f"/cache/inspect?{query}", timeout_s=_LOOK_TIMEOUT_S)
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found["values"]:
        click.echo(f"nothing in {name} has a key that contains {key!r}")
    else:
        rows: list[tuple[str, ...]] = [("key", "size", "age", "fresh for", "state", "tags")]
        rows += [_value_row(value) for value in found["values"]]
        click.echo("\n".join(table(rows, indent="", right=frozenset({1, 2, 3}))))
    if not found["complete"]:
        click.echo("there are more; a longer KEY finds fewer")


def _value_row(value: Mapping[str, Any]) -> tuple[str, ...]:
    if value["age_s"] is None:
        return (value["key"], format_bytes(value["bytes"]), "–", "–", "of another version of Headway", "")
    left_s = value["ttl_left_s"]
    state = "fresh" if left_s > 0 else "stale"
    if not value["is_current"]:
        state = "void"
    if value["lease_s"] is not None:
        state += ", being loaded"
    tags = ", ".join(value["tags"])
    if value["tags_passed"]:
        tags += f"{', ' if tags else ''}{value['tags_passed']} invalidated"
    left = format_duration(left_s) if left_s > 0 else "–"
    return (value["key"], format_bytes(value["bytes"]), format_duration(max(0.0, value["age_s"])), left, state, tags)


def flush(system: System, name: str, tag: str | None, *, as_json: bool) -> None:
    """Make values void."""
    found = system.client.ask("POST", "/cache/flush", {"cache": name, "tag": tag}, timeout_s=_FLUSH_TIMEOUT_S)
    if as_json:
        click.echo(json.dumps(found))
    elif tag is not None:
        click.echo(f"{name}: all values with tag {tag} are void")
    else:
        click.echo(f"{name}: all values are void, {found['removed']:,} of them removed")
        if not found["complete"]:
            click.echo("the others go in time: the server holds too many keys to look through all of them")
