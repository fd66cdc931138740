"""The `headway` command: what it can do, and the one place where errors become two lines and an exit status."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from headway import __version__
from headway.errors import AppError, DeclarationError, HeadwayError

_STATE = click.option(
    "--state", metavar="DIR", help="Folder for logs, data and state. Default: .headway beside the declaration."
)
_DEBUG = "HEADWAY_DEBUG"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")


class _Group(click.Group):
    """Lists commands in the order in which a user meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class _Scale(click.Command):
    """Tells a negative number from an option: `headway scale web -1` is no typing error of an option's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        negative = next((arg for arg in args if re.fullmatch(r"-\d+", arg)), None)
        if negative is not None:
            raise click.UsageError(f"a service cannot have {negative} replicas; 0 stops all of them", ctx)
        return super().parse_args(ctx, args)


def _count(_context: click.Context, _parameter: click.Parameter, text: str) -> int | None:
    """A number of replicas, or `auto` (None): as the declaration or the load has it."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise click.BadParameter(f"{text!r} is neither a whole number nor auto")
    return int(text)


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(__version__, prog_name="headway")
@click.pass_context
def cli(context: click.Context) -> None:
    """Takes a Python web app from one server to a fleet without rewriting it."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _root() -> Path:
    """The folder of the system this command is about: where a declaration or a state folder is, from here upwards."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if any((folder / name).exists() for name in (".headway", "headway.toml")):
            return folder
    return here


def _system(state: str | None) -> Any:
    from headway.cli.start import system_of

    return system_of(state, _root())


@cli.command()
@click.argument("folder", required=False, default=".")
@click.option("--print", "only_print", is_flag=True, help="Show the declaration instead of writing it.")
def init(folder: str, only_print: bool) -> None:
    """Write a commented headway.toml for the app found in FOLDER."""
    from headway.cli.declare import init as run

    run(Path(folder), only_print=only_print)


@cli.command()
@click.argument("target", required=False, metavar="[FOLDER|FILE|MODULE:APP]")
@click.option("--env", "overlay", metavar="NAME", help="Lay headway.NAME.toml over the declaration.")
@_STATE
@_JSON
def check(target: str | None, overlay: str | None, state: str | None, as_json: bool) -> None:
    """Check the declaration, and say what `up` would change."""
    from headway.cli.declare import check as run

    run(target, overlay=overlay, state=state, as_json=as_json)


@cli.command()
@click.argument("target", required=False, metavar="[FOLDER|FILE|MODULE:APP]")
@click.option("--detach", "-d", is_flag=True, help="Return when all is ready; everything goes on in the background.")
@click.option("--reload", is_flag=True, help="Replace replicas when source files change; for development.")
@click.option("--env", "overlay", metavar="NAME", help="Lay headway.NAME.toml over the declaration.")
@_STATE
@_JSON
def up(target: str | None, detach: bool, reload: bool, overlay: str | None, state: str | None, as_json: bool) -> None:
    """Start the system, or apply the difference to one that runs."""
    from headway.cli.show import status_lines
    from headway.cli.up import up as run

    document, is_running = run(target, state=state, overlay=overlay, detach=detach, reload=reload)
    if as_json:
        click.echo(json.dumps(document))
    elif is_running:
        click.echo("\n".join(status_lines(document)))
        click.echo("\n  headway status   headway logs -f   headway down")


@cli.command()
@click.option("--watch", is_flag=True, help="Keep showing it until Ctrl-C.")
@_STATE
@_JSON
def status(watch: bool, state: str | None, as_json: bool) -> None:
    """Show what runs."""
    from headway.cli.look import status as run

    run(_system(state), watch=watch, as_json=as_json)


@cli.command(cls=_Scale)
@click.argument("service")
@click.argument("replicas", metavar="REPLICAS|auto", callback=_count)
@click.option("--no-wait", is_flag=True, help="Return at once instead of when it is done.")
@_STATE
@_JSON
def scale(service: str, replicas: int | None, no_wait: bool, state: str | None, as_json: bool) -> None:
    """Set the number of replicas of SERVICE, until the declaration says another; `auto` gives it back."""
    from headway.cli.look import scale as run

    run(_system(state), service, replicas, wait=not no_wait, as_json=as_json)


@cli.command()
@click.argument("service", required=False)
@click.option("--limit", metavar="N", type=click.IntRange(1, 100_000), help="Requests at once of each replica.")
@click.option("--replicas", metavar="N", type=click.IntRange(0, 1000), help="Number of replicas.")
@click.option("--for", "duration", metavar="TIME", default="1h", help="How long, like 10m or 1h30m; a week at most.")
@click.option("--release", is_flag=True, help="Let go of what is held.")
@_STATE
@_JSON
def hold(
    service: str | None,
    limit: int | None,
    replicas: int | None,
    duration: str,
    release: bool,
    state: str | None,
    as_json: bool,
) -> None:
    """Pin SERVICE by hand and freeze its automatic steps for a time; all services without SERVICE."""
    from headway.cli.hold import hold as pin
    from headway.cli.hold import release as let_go

    if release:
        if limit is not None or replicas is not None:
            raise click.UsageError(
                "--release takes no numbers: it lets go of all that is held", click.get_current_context()
            )
        let_go(_system(state), service, as_json=as_json)
    else:
        pin(_system(state), service, limit=limit, replicas=replicas, duration=duration, as_json=as_json)


@cli.command()
@click.argument("name", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option(
    "--last", "-n", "last", metavar="N", type=click.IntRange(0, 100_000), default=50, help="Lines of each log."
)
@_STATE
@_JSON
def logs(name: str | None, follow: bool, last: int, state: str | None, as_json: bool) -> None:
    """Show output: of a service, a replica, edge, access, database.NAME, controller; all of it without NAME."""
    from headway.cli.logs import logs as run

    run(_system(state), name, follow=follow, last=last, as_json=as_json)


@cli.command()
@click.argument("what", required=False)
@click.option("--last", "-n", "last", metavar="N", type=click.IntRange(1, 10_000), default=40, help="Entries to show.")
@_STATE
@_JSON
def explain(what: str | None, last: int, state: str | None, as_json: bool) -> None:
    """Say what was done and why: of a service, a replica, edge, controller; all of it without WHAT."""
    from headway.cli.look import explain as run

    run(_system(state), what, last=last, as_json=as_json)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("service")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_STATE
def run(service: str, command: tuple[str, ...], state: str | None) -> None:
    """Run COMMAND in the folder and environment of SERVICE: headway run web -- python manage.py migrate."""
    from headway.cli.run import run as go

    sys.exit(go(_system(state), service, command))


@cli.command()
@click.argument("url")
@click.option("--rate", metavar="R", type=float, help="Requests per second, whether answers come or not.")
@click.option("--for", "duration", metavar="S", help="How long, like 10s or 5m; 10s when left out.")
@click.option(
    "--schedule",
    metavar="TEXT",
    multiple=True,
    help='A rate that changes, instead of --rate and --for: "100 for 10s, 1000 for 3s" (a spike), '
    '"100..1000 for 60s" (a ramp), "100 200 400 for 10s each" (steps). May be repeated.',
)
@click.option("--slo", metavar="MS", help="An answer that is whole later than this is late, like 250ms.")
@click.option("--deadline", metavar="MS", default="10s", help="When a client gives up.")
@click.option("--method", metavar="M", default="GET", help="HTTP method.")
@click.option(
    "--request",
    metavar="TEXT",
    multiple=True,
    help='One of several kinds of requests: "/", "/search?q=tea x8", "POST /cart x2" (method, path, how often '
    "compared with the others). May be repeated; the path of the URL is not used then.",
)
@click.option("--requests", metavar="FILE", help="More kinds of requests, from a TOML file, with bodies and headers.")
@click.option("--header", metavar="TEXT", multiple=True, help='For all requests: "Name: value". May be repeated.')
@click.option("--body", metavar="TEXT|@FILE", help="Body of all POST, PUT and PATCH requests.")
@click.option(
    "--connections", type=click.Choice(["new", "keep"]), default="new", help="A new one for each request, or kept."
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "constant", "burst"]),
    default="poisson",
    help="How requests are spread: by chance as from many users, evenly, or all at the start.",
)
@click.option("--insecure", is_flag=True, help="Do not check the certificate of an HTTPS target.")
@click.option("--ca", metavar="FILE", help="Trust the authorities in this PEM file instead of the machine's.")
@click.option("--seed", metavar="N", type=int, default=1, help="Seed of the arrivals.")
@click.option("--report", metavar="FILE", help="Write an HTML page with plots over time.")
@click.option("--state", metavar="DIR", help="Plot the limits of the system with this state folder, too.")
@_JSON
def load(state: str | None, as_json: bool, **options: Any) -> None:
    """Send requests at a steady or changing rate and measure what comes back (open loop)."""
    from headway.cli.load import Options
    from headway.cli.load import load as go

    go(Options(**options), _system(state), state_given=state is not None, as_json=as_json)


@cli.command()
@click.argument("target", required=False, metavar="[FOLDER|FILE|MODULE:APP]")
@click.option("--path", metavar="/x", help="What to ask for. Default: the shortest public route.")
@click.option("--slo", metavar="MS", help="An answer that is whole later than this is late. Default: the declared one.")
@click.option("--quick", is_flag=True, help="Half a minute instead of two: shorter, and so less certain.")
@click.option("--bare", is_flag=True, help="The same on uvicorn or gunicorn alone, beside it.")
@click.option("--sizes", metavar="N,N", help="Cores to give the workers, like 0.5,1,2. Default: 1, 2, 4, … to all.")
@click.option("--url", metavar="URL", help="Drill what runs there already, instead of starting the system.")
@click.option(
    "--yes",
    is_flag=True,
    help="Load databases that are not its own, or drill another machine; with --url, kill a replica.",
)
@click.option("--ca", metavar="FILE", help="Trust the authorities in this PEM file instead of the machine's.")
@click.option("--report", metavar="FILE", help="Write an HTML page with plots.")
@click.option("--env", "overlay", metavar="NAME", help="Lay headway.NAME.toml over the declaration.")
@_STATE
@_JSON
def drill(state: str | None, as_json: bool, **options: Any) -> None:
    """Start the system beside what runs, give it too much, and say what it does then."""
    from headway.cli.drill import Options
    from headway.cli.drill import drill as go

    go(Options(**options), lambda: _system(state), as_json=as_json)


@cli.command("break")
@click.argument("what", nargs=-1, required=True, metavar="WHAT [NAME]")
@click.option(
    "--how", type=click.Choice(["kill", "hang", "partition"]), default="kill", help="SIGKILL; or SIGSTOP for a time."
)
@click.option("--for", "duration", metavar="S", help="How long a hang lasts, 5m at most. Default: 10s.")
@click.option("--rate", metavar="R", type=float, default=50.0, help="Requests per second that measure it.")
@click.option("--path", metavar="/x", help="What to ask for. Default: a route of what is broken.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--expect-none-failed", "none_failed", is_flag=True, help="Exit with 1 when a request came to nothing.")
@_STATE
@_JSON
def break_(state: str | None, as_json: bool, **options: Any) -> None:
    """Break a part under load and tell who noticed: replica web.1, edge, controller, server DATABASE."""
    from headway.cli.break_ import Options
    from headway.cli.break_ import break_ as go

    go(_system(state), Options(**options), as_json=as_json)


@cli.command()
@_STATE
@_JSON
def walls(state: str | None, as_json: bool) -> None:
    """Name every limit of this system, and the rate at which traffic meets it; the nearest first."""
    from headway.cli.walls import show_walls

    show_walls(_system(state), as_json=as_json)


@cli.group(cls=_Group)
def db() -> None:
    """Sharded databases: the map, moves between servers, splits, balance, migrations."""


_DATABASE = click.argument("database")


@db.command("status")
@click.argument("database", required=False)
@click.option("--pgdog", "for_pgdog", is_flag=True, help="Print the map of DATABASE as a configuration of PgDog.")
@_STATE
@_JSON
def db_status(database: str | None, for_pgdog: bool, state: str | None, as_json: bool) -> None:
    """Show which server holds which shard, and what is moving."""
    from headway.cli.db import print_pgdog
    from headway.cli.db import status as run

    if for_pgdog:
        print_pgdog(_system(state), database)
    else:
        run(_system(state), database, as_json=as_json)


@db.command("check")
@_DATABASE
@_STATE
@_JSON
def db_check(database: str, state: str | None, as_json: bool) -> None:
    """Say whether the servers allow what shards, moves and transactions over shards need."""
    from headway.cli.db_check import check as run

    if not run(_system(state), database, as_json=as_json):
        raise click.exceptions.Exit(1)


@db.command("move")
@_DATABASE
@click.argument("shard", type=click.IntRange(0, 4095))
@click.option("--to", "target", metavar="SERVER", required=True, help="The server that is to hold it.")
@_STATE
@_JSON
def db_move(database: str, shard: int, target: str, state: str | None, as_json: bool) -> None:
    """Move SHARD to another server while it is read and written."""
    from headway.cli.db import move as run

    run(_system(state), database, shard, target, as_json=as_json)


@db.command("split")
@_DATABASE
@_STATE
@_JSON
def db_split(database: str, state: str | None, as_json: bool) -> None:
    """Double the shards while they are read and written: each splits in two, on its own server."""
    from headway.cli.db import split as run

    run(_system(state), database, as_json=as_json)


@db.command("abort")
@_DATABASE
@click.argument("shard", type=click.IntRange(0, 4095), required=False)
@_STATE
@_JSON
def db_abort(database: str, shard: int | None, state: str | None, as_json: bool) -> None:
    """Undo the move of SHARD, or without one the split, that is under way; past its commit point it only goes on."""
    from headway.cli.db import abort as run

    run(_system(state), database, shard, as_json=as_json)


@db.command("rebalance")
@_DATABASE
@click.option("--empty", metavar="SERVER", multiple=True, help="Leave nothing on this server.")
@click.option("--yes", is_flag=True, help="Carry the plan out without asking.")
@_STATE
@_JSON
def db_rebalance(database: str, empty: tuple[str, ...], yes: bool, state: str | None, as_json: bool) -> None:
    """Spread the shards evenly over the servers: shows the plan first."""
    from headway.cli.db import rebalance as run

    run(_system(state), database, empty=empty, yes=yes, as_json=as_json)


@db.command("verify")
@_DATABASE
@_STATE
@_JSON
def db_verify(database: str, state: str | None, as_json: bool) -> None:
    """Hold the servers against the map, and shards and reference tables against each other."""
    from headway.cli.db import verify as run

    if not run(_system(state), database, as_json=as_json):
        raise click.exceptions.Exit(1)


@db.command("import")
@_DATABASE
@click.option("--from", "source", metavar="SOURCE", help="A declared plain database, or a URL: '{env.SOURCE_URL}'.")
@click.option("--switch", is_flag=True, help="Let the shards take over.")
@click.option("--abort", is_flag=True, help="Undo it; past the switch it only goes on.")
@_STATE
@_JSON
def db_import(database: str, source: str | None, switch: bool, abort: bool, state: str | None, as_json: bool) -> None:
    """Bring the tables of a plain PostgreSQL into the shards while they are written to."""
    from headway.cli.db_import import import_ as run

    run(_system(state), database, source, switch=switch, abort=abort, as_json=as_json)


@db.command("shell")
@_DATABASE
@click.option("--key", metavar="KEY", help="Where the rows of this key are.")
@click.option("--shard", metavar="N", type=click.IntRange(0, 4095), help="This shard.")
@click.option("--server", metavar="NAME", help="This server, with its reference tables.")
@click.option("-c", "sql", metavar="SQL", multiple=True, help="Run this and end, instead of asking.")
@_STATE
def db_shell(
    database: str, key: str | None, shard: int | None, server: str | None, sql: tuple[str, ...], state: str | None
) -> None:
    """Open psql on a shard, as the app sees it; also on a plain database."""
    from headway.cli.db_shell import shell as run

    raise click.exceptions.Exit(run(_system(state), database, key=key, shard=shard, server=server, sql=sql))


@db.command("migrate")
@_DATABASE
@click.option("--folder", metavar="DIR", help="SQL files, 0001_….sql and on. Default: as declared.")
@click.option("--dry-run", is_flag=True, help="Say what would be applied.")
@_STATE
@_JSON
def db_migrate(database: str, folder: str | None, dry_run: bool, state: str | None, as_json: bool) -> None:
    """Apply migrations to every shard; a run that was cut off goes on where it was."""
    from headway.cli.db import migrate as run

    run(_system(state), database, folder, dry_run=dry_run, as_json=as_json)


@cli.command()
@_STATE
@_JSON
def doctor(state: str | None, as_json: bool) -> None:
    """Check this machine: engines, ports, limits, memory, disk; and say what to do."""
    from headway.cli.doctor import doctor as run

    run(_system(state), as_json=as_json)


@cli.command()
@_STATE
@_JSON
def down(state: str | None, as_json: bool) -> None:
    """Stop everything in order; data stays."""
    from headway.cli.look import down as run

    run(_system(state), as_json=as_json)


def main() -> None:
    """Entry point: 0 only on success; errors are `error:` and `hint:` lines on standard error."""
    sys.exit(guarded(lambda: cli.main(prog_name="headway", standalone_mode=False)))


def guarded(function: Callable[[], Any]) -> int:
    """Run a command and turn what it raises into lines and a status."""
    try:
        function()
    except DeclarationError as error:
        from headway.declaration.load import report

        _say("error: " + report(error))
        return 1
    except AppError as error:
        if error.detail:
            _say(error.detail.rstrip())
        _say_error(error.message, error.hint)
        return 1
    except HeadwayError as error:
        _say_error(error.message, error.hint)
        return 1
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        _say_error(_sentence(error.format_message()), f"{error.ctx.command_path if error.ctx else 'headway'} --help")
        return 1
    except click.ClickException as error:
        _say_error(_sentence(error.format_message()), "headway --help")
        return 1
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader is gone: nothing to say, and nowhere to say it
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say_error(f"{where}{error.strerror or error}", "headway doctor")
        return 1
    except Exception as error:  # the last resort: whatever is wrong with us, a user gets a sentence
        if _DEBUG in os.environ:
            raise
        _say_error(
            f"this is a mistake in Headway itself: {type(error).__name__}: {error}",
            f"please report it, with what the same command says after: export {_DEBUG}=1",
        )
        return 1
    return 0


def _sentence(text: str) -> str:
    """A message of click's in the form of ours."""
    return text[:1].lower() + text[1:].rstrip(".")


def _say_error(message: str, hint: str) -> None:
    _say(f"error: {message}")
    if hint:
        _say(f"hint: {hint}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
