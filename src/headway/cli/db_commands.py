"""The commands of `headway db`: what each takes. What it does is in the module that it calls."""

from __future__ import annotations

import click

from headway.cli.options import JSON, STATE, Group, system_at


@click.group(cls=Group, short_help="Databases: shards, servers, imports, backups, migrations.")
def db() -> None:
    """Databases: shards and where they are, moves, splits, servers, imports, backups, migrations."""


_DATABASE = click.argument("database")


@db.command("status")
@click.argument("database", required=False)
@click.option("--pgdog", "for_pgdog", is_flag=True, help="Print the map of DATABASE as a configuration of PgDog.")
@STATE
@JSON
def db_status(database: str | None, for_pgdog: bool, state: str | None, as_json: bool) -> None:
    """Show which server holds which shard, and what is moving."""
    from headway.cli.db import print_pgdog
    from headway.cli.db import status as run

    if for_pgdog:
        print_pgdog(system_at(state), database)
    else:
        run(system_at(state), database, as_json=as_json)


@db.command("check", short_help="Say whether the servers allow what shards need.")
@_DATABASE
@STATE
@JSON
def db_check(database: str, state: str | None, as_json: bool) -> None:
    """Say whether the servers allow what shards, moves and transactions over shards need."""
    from headway.cli.db_check import check as run

    if not run(system_at(state), database, as_json=as_json):
        raise click.exceptions.Exit(1)


@db.command("move")
@_DATABASE
@click.argument("shard", type=click.IntRange(0, 4095))
@click.option("--to", "target", metavar="SERVER", required=True, help="The server that is to hold it.")
@STATE
@JSON
def db_move(database: str, shard: int, target: str, state: str | None, as_json: bool) -> None:
    """Move SHARD to another server while it is read and written."""
    from headway.cli.db import move as run

    run(system_at(state), database, shard, target, as_json=as_json)


@db.command("split", short_help="Double the shards while they are read and written.")
@_DATABASE
@STATE
@JSON
def db_split(database: str, state: str | None, as_json: bool) -> None:
    """Double the shards while they are read and written: each splits in two, on its own server."""
    from headway.cli.db import split as run

    run(system_at(state), database, as_json=as_json)


@db.command("abort", short_help="Undo a move, or the split, that is under way.")
@_DATABASE
@click.argument("shard", type=click.IntRange(0, 4095), required=False)
@click.option("--server", metavar="NAME", help="The server that is leaving: it stays, with the shards it still has.")
@STATE
@JSON
def db_abort(database: str, shard: int | None, server: str | None, state: str | None, as_json: bool) -> None:
    """Undo the move of SHARD, or without one the split, that is under way; past its commit point it only goes on."""
    if server is not None:
        from headway.cli.db_servers import keep_server

        if shard is not None:
            raise click.UsageError("either SHARD or --server")
        keep_server(system_at(state), database, server, as_json=as_json)
        return
    from headway.cli.db import abort as run

    run(system_at(state), database, shard, as_json=as_json)


@db.command("rebalance", short_help="Spread the shards evenly; shows the plan first.")
@_DATABASE
@click.option("--empty", metavar="SERVER", multiple=True, help="Leave nothing on this server.")
@click.option(
    "--by",
    type=click.Choice(["rows", "load", "both"]),
    default="both",
    show_default=True,
    help="What is spread: what shards hold, what is read and written in them, or both alike.",
)
@click.option(
    "--over",
    "over_s",
    metavar="SECONDS",
    type=click.FloatRange(0, 60),
    default=5.0,
    show_default=True,
    help="How long to look at the load; 0: as PostgreSQL has counted it since its start.",
)
@click.option("--yes", is_flag=True, help="Carry the plan out without asking.")
@STATE
@JSON
def db_rebalance(
    database: str, empty: tuple[str, ...], by: str, over_s: float, yes: bool, state: str | None, as_json: bool
) -> None:
    """Spread the shards evenly over the servers: shows the plan first."""
    from headway.cli.db import rebalance as run

    run(system_at(state), database, empty=empty, by=by, over_s=over_s, yes=yes, as_json=as_json)


@db.command("add-server", short_help="Give a database one more server.")
@_DATABASE
@click.argument("name", required=False)
@click.argument("url", required=False)
@STATE
@JSON
def db_add_server(database: str, name: str | None, url: str | None, state: str | None, as_json: bool) -> None:
    """Give a database one more server: an embedded one, or NAME at URL, written like '{env.ORDERS_C}'."""
    from headway.cli.db_servers import add_server as run

    run(system_at(state), database, name, url, as_json=as_json)


@db.command("remove-server", short_help="Empty SERVER while it is used, then let it go.")
@_DATABASE
@click.argument("server")
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
@STATE
@JSON
def db_remove_server(database: str, server: str, yes: bool, state: str | None, as_json: bool) -> None:
    """Move all shards of SERVER to the others while they are read and written, then let it go; its data stays."""
    from headway.cli.db_servers import remove_server as run

    run(system_at(state), database, server, yes=yes, as_json=as_json)


@db.command("verify", short_help="Hold the servers against the map and each other.")
@_DATABASE
@STATE
@JSON
def db_verify(database: str, state: str | None, as_json: bool) -> None:
    """Hold the servers against the map, and shards and reference tables against each other."""
    from headway.cli.db import verify as run

    if not run(system_at(state), database, as_json=as_json):
        raise click.exceptions.Exit(1)


@db.command("repair", short_help="Say what is wrong with shards, and mend it.")
@_DATABASE
@click.option("--apply", is_flag=True, help="Carry the mends out, one by one.")
@click.option(
    "--keep",
    metavar="WHAT=SERVER",
    multiple=True,
    help="Of two copies that differ, the rows that stay: 3=s1 for a shard, countries=s1 for a reference table.",
)
@STATE
@JSON
def db_repair(database: str, apply: bool, keep: tuple[str, ...], state: str | None, as_json: bool) -> None:
    """Say what is wrong with shards, links and rights, and mend what needs no decision; no row is ever dropped."""
    from headway.cli.db_repair import repair as run

    if not run(system_at(state), database, keep, apply=apply, as_json=as_json):
        raise click.exceptions.Exit(1)


@db.command("import", short_help="Bring a plain PostgreSQL into the shards while it is used.")
@_DATABASE
@click.option("--from", "source", metavar="SOURCE", help="A declared plain database, or a URL: '{env.SOURCE_URL}'.")
@click.option("--switch", is_flag=True, help="Let the shards take over.")
@click.option("--abort", is_flag=True, help="Undo it; past the switch it only goes on.")
@STATE
@JSON
def db_import(database: str, source: str | None, switch: bool, abort: bool, state: str | None, as_json: bool) -> None:
    """Bring the tables of a plain PostgreSQL into the shards while they are written to."""
    from headway.cli.db_import import import_ as run

    run(system_at(state), database, source, switch=switch, abort=abort, as_json=as_json)


@db.command("backup", short_help="Back up a database as of one moment while it is used.")
@_DATABASE
@click.option("--to", "folder", metavar="FOLDER", help="Default: backups/DATABASE-TIME in the state folder.")
@STATE
@JSON
def db_backup(database: str, folder: str | None, state: str | None, as_json: bool) -> None:
    """Back up all shards as of one moment, or a plain database, while it is read and written."""
    from headway.cli.db_backup import backup as run

    run(system_at(state), database, folder, as_json=as_json)


@db.command("restore", short_help="Bring a backup back; the app is kept out meanwhile.")
@_DATABASE
@click.argument("folder", required=False)
@click.option("--replace", is_flag=True, help="Put the backup in the place of the rows that are there.")
@click.option("--abort", is_flag=True, help="Undo the one that is under way; when the app has been let in it is over.")
@STATE
@JSON
def db_restore(database: str, folder: str | None, replace: bool, abort: bool, state: str | None, as_json: bool) -> None:
    """Bring the backup in FOLDER into DATABASE; the app is kept out until all of it is there."""
    from headway.cli.db_backup import restore as run

    run(system_at(state), database, folder, replace=replace, abort=abort, as_json=as_json)


@db.command("shell", short_help="Open psql on a shard, or on a plain database.")
@_DATABASE
@click.option("--key", metavar="KEY", help="Where the rows of this key are.")
@click.option("--shard", metavar="N", type=click.IntRange(0, 4095), help="This shard.")
@click.option("--server", metavar="NAME", help="This server, with its reference tables.")
@click.option("-c", "sql", metavar="SQL", multiple=True, help="Run this and end, instead of asking.")
@STATE
def db_shell(
    database: str, key: str | None, shard: int | None, server: str | None, sql: tuple[str, ...], state: str | None
) -> None:
    """Open psql on a shard, as the app sees it; also on a plain database."""
    from headway.cli.db_shell import shell as run

    raise click.exceptions.Exit(run(system_at(state), database, key=key, shard=shard, server=server, sql=sql))


@db.command("migrate", short_help="Apply migrations to a database, to every shard of it.")
@_DATABASE
@click.option("--folder", metavar="DIR", help="SQL files, 0001_….sql and on. Default: as declared.")
@click.option(
    "--stamp",
    metavar="REVISION",
    help="Record all up to this one as applied, without running it: a file's name, a revision of Alembic, APP.NAME of "
    "Django; head: all.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be applied, or recorded.")
@STATE
@JSON
def db_migrate(
    database: str, folder: str | None, stamp: str | None, dry_run: bool, state: str | None, as_json: bool
) -> None:
    """Apply migrations to a database, to every shard of it; a run that was cut off goes on where it was."""
    from headway.cli.db import migrate as run

    if stamp == "":
        raise click.UsageError("--stamp names no revision")
    run(system_at(state), database, folder, stamp, dry_run=dry_run, as_json=as_json)
