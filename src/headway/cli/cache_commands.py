"""The commands of `headway cache`: what each takes. What it does is in the module that it calls."""

from __future__ import annotations

import click

from headway.cli.options import JSON, STATE, Group, system_at


@click.group(cls=Group)
def cache() -> None:
    """Caches: how they are used, what they hold, and how to empty them."""


@cache.command("stats", short_help="Show hits and loads of each cached function, and memory.")
@click.argument("name", required=False)
@STATE
@JSON
def cache_stats(name: str | None, state: str | None, as_json: bool) -> None:
    """Show hits, loads and waits of each cached function, and the server's memory; of all caches without NAME."""
    from headway.cli.cache import stats as run

    run(system_at(state), name, as_json=as_json)


@cache.command("inspect", short_help="Show stored values whose key contains KEY.")
@click.argument("name")
@click.argument("key")
@STATE
@JSON
def cache_inspect(name: str, key: str, state: str | None, as_json: bool) -> None:
    """Show stored values whose key contains KEY: age, time left, size, tags, and who loads them now."""
    from headway.cli.cache import inspect as run

    run(system_at(state), name, key, as_json=as_json)


@cache.command("flush", short_help="Make all values, or those with a tag, void everywhere.")
@click.argument("name")
@click.option("--tag", metavar="TAG", help="Only what has this tag.")
@STATE
@JSON
def cache_flush(name: str, tag: str | None, state: str | None, as_json: bool) -> None:
    """Make all values void at once, in every process, or those with a tag."""
    from headway.cli.cache import flush as run

    run(system_at(state), name, tag, as_json=as_json)
