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
from headway.cli.cache_commands import cache
from headway.cli.db_commands import db
from headway.cli.options import JSON, STATE, Group, system_at
from headway.errors import AppError, DeclarationError, HeadwayError

_DEBUG = "HEADWAY_DEBUG"


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
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(__version__, prog_name="headway")
def cli() -> None:
    """Takes a Python web app from one server to a fleet without rewriting it."""


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
@STATE
@JSON
def check(target: str | None, overlay: str | None, state: str | None, as_json: bool) -> None:
    """Check the declaration, and say what `up` would change."""
    from headway.cli.declare import check as run

    run(target, overlay=overlay, state=state, as_json=as_json)


@cli.command()
@click.argument("target", required=False, metavar="[FOLDER|FILE|MODULE:APP]")
@click.option("--detach", "-d", is_flag=True, help="Return when all is ready; everything goes on in the background.")
@click.option("--reload", is_flag=True, help="Replace replicas when source files change; for development.")
@click.option("--env", "overlay", metavar="NAME", help="Lay headway.NAME.toml over the declaration.")
@STATE
@JSON
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
@STATE
@JSON
def status(watch: bool, state: str | None, as_json: bool) -> None:
    """Show what runs."""
    from headway.cli.look import status as run

    run(system_at(state), watch=watch, as_json=as_json)


@cli.command(cls=_Scale, short_help="Set the number of replicas of SERVICE, or give it back: auto.")
@click.argument("service")
@click.argument("replicas", metavar="REPLICAS|auto", callback=_count)
@click.option("--no-wait", is_flag=True, help="Return at once instead of when it is done.")
@STATE
@JSON
def scale(service: str, replicas: int | None, no_wait: bool, state: str | None, as_json: bool) -> None:
    """Set the number of replicas of SERVICE, until the declaration says another; `auto` gives it back."""
    from headway.cli.look import scale as run

    run(system_at(state), service, replicas, wait=not no_wait, as_json=as_json)


@cli.command(short_help="Take up edited source: replace the replicas, one by one.")
@click.option("--no-wait", is_flag=True, help="Return at once instead of when it is done.")
@STATE
@JSON
def reload(no_wait: bool, state: str | None, as_json: bool) -> None:
    """Take up edited source: replace the replicas, each when a new one is ready."""
    from headway.cli.look import reload as run

    run(system_at(state), wait=not no_wait, as_json=as_json)


@cli.command(short_help="Pin SERVICE, or all, by hand for a time.")
@click.argument("service", required=False)
@click.option("--limit", metavar="N", type=click.IntRange(1, 100_000), help="Requests at once of each replica.")
@click.option("--replicas", metavar="N", type=click.IntRange(0, 1000), help="Number of replicas.")
@click.option("--for", "duration", metavar="TIME", default="1h", help="How long, like 10m or 1h30m; a week at most.")
@click.option("--release", is_flag=True, help="Let go of what is held.")
@STATE
@JSON
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
        let_go(system_at(state), service, as_json=as_json)
    else:
        pin(system_at(state), service, limit=limit, replicas=replicas, duration=duration, as_json=as_json)


@cli.command(short_help="Show what a part, or all of them, wrote.")
@click.argument("name", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option(
    "--last", "-n", "last", metavar="N", type=click.IntRange(0, 100_000), default=50, help="Lines of each log."
)
@STATE
@JSON
def logs(name: str | None, follow: bool, last: int, state: str | None, as_json: bool) -> None:
    """Show output: of a service, replica, database, cache, edge, access, controller; of all without NAME."""
    from headway.cli.logs import logs as run

    run(system_at(state), name, follow=follow, last=last, as_json=as_json)


@cli.command(short_help="Say what was done and why, or where a request spent its time.")
@click.argument("what", required=False, metavar="[WHAT|REQUEST-ID]")
@click.option("--last", "-n", "last", metavar="N", type=click.IntRange(1, 10_000), default=40, help="Entries to show.")
@STATE
@JSON
def explain(what: str | None, last: int, state: str | None, as_json: bool) -> None:
    """Say what was done and why: of a service, a replica, a database, a cache, edge, controller; all of it without
    WHAT. Or, with the id of a request (X-Request-Id of its answer), what its time went to, and who refused it and why.
    """
    from headway.cli.explain import explain as run

    run(system_at(state), what, last=last, as_json=as_json)


@cli.command(
    context_settings={"ignore_unknown_options": True},
    short_help="Run COMMAND in the folder and environment of SERVICE.",
)
@click.argument("service")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@STATE
def run(service: str, command: tuple[str, ...], state: str | None) -> None:
    """Run COMMAND in the folder and environment of SERVICE: headway run web -- python manage.py migrate."""
    from headway.cli.run import run as go

    sys.exit(go(system_at(state), service, command))


@cli.command(short_help="Send requests at a rate and measure what comes back.")
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
@JSON
def load(state: str | None, as_json: bool, **options: Any) -> None:
    """Send requests at a steady or changing rate and measure what comes back (open loop)."""
    from headway.cli.load import Options
    from headway.cli.load import load as go

    go(Options(**options), system_at(state), state_given=state is not None, as_json=as_json)


@cli.command(short_help="Give a copy of the system too much, and say what it does.")
@click.argument("target", required=False, metavar="[FOLDER|FILE|MODULE:APP]")
@click.option("--path", metavar="/x", help="What to ask for. Default: the shortest public route.")
@click.option("--slo", metavar="MS", help="An answer that is whole later than this is late. Default: the declared one.")
@click.option("--quick", is_flag=True, help="Under a minute instead of two or more: shorter, and so less certain.")
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
@STATE
@JSON
def drill(state: str | None, as_json: bool, **options: Any) -> None:
    """Start the system beside what runs, give it too much, and say what it does then."""
    from headway.cli.drill import Options
    from headway.cli.drill import drill as go

    go(Options(**options), lambda: system_at(state), as_json=as_json)


@cli.command("break", short_help="Break a part under load, and tell who noticed.")
@click.argument("what", nargs=-1, required=True, metavar="WHAT [NAME]")
@click.option(
    "--how", type=click.Choice(["kill", "hang", "partition"]), default="kill", help="SIGKILL; or SIGSTOP for a time."
)
@click.option("--for", "duration", metavar="S", help="How long a hang lasts, 5m at most. Default: 10s.")
@click.option("--rate", metavar="R", type=float, default=50.0, help="Requests per second that measure it.")
@click.option("--path", metavar="/x", help="What to ask for. Default: a route of what is broken.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--expect-none-failed", "none_failed", is_flag=True, help="Exit with 1 when a request came to nothing.")
@STATE
@JSON
def break_(state: str | None, as_json: bool, **options: Any) -> None:
    """Break a part under load and tell who noticed: replica web.1, edge, controller, server DATABASE,
    cache NAME."""
    from headway.cli.break_ import Options
    from headway.cli.break_ import break_ as go

    go(system_at(state), Options(**options), as_json=as_json)


@cli.command(short_help="Name every limit, and the rate at which traffic meets it.")
@STATE
@JSON
def walls(state: str | None, as_json: bool) -> None:
    """Name every limit of this system, and the rate at which traffic meets it; the nearest first."""
    from headway.cli.walls import show_walls

    show_walls(system_at(state), as_json=as_json)


@cli.command(short_help="Print, or serve, the numbers of this system for Prometheus.")
@click.option("--listen", metavar="HOST:PORT", help="Serve them as http://HOST:PORT/metrics until Ctrl-C.")
@STATE
def metrics(listen: str | None, state: str | None) -> None:
    """Print the numbers of this system in the format of Prometheus, or serve them."""
    from headway.cli.metrics import serve, show
    from headway.model.bind import parse_bind

    if listen is None:
        show(system_at(state))
        return
    try:
        bind = parse_bind(listen)
    except ValueError as error:
        what, _, hint = str(error).partition("; ")
        raise HeadwayError(f"--listen: {what}", hint=hint) from None
    serve(system_at(state), bind)


cli.add_command(db)
cli.add_command(cache)


@cli.command(short_help="Check what this machine has, and say what to do.")
@STATE
@JSON
def doctor(state: str | None, as_json: bool) -> None:
    """Check this machine: engines, ports, limits, memory, disk; and say what to do."""
    from headway.cli.doctor import doctor as run

    run(system_at(state), as_json=as_json)


@cli.command()
@STATE
@JSON
def down(state: str | None, as_json: bool) -> None:
    """Stop everything in order; data stays."""
    from headway.cli.look import down as run

    run(system_at(state), as_json=as_json)


def main() -> None:
    """Run a command: 0 only on success; errors are `error:` and `hint:` lines on standard error."""
    sys.exit(guarded(lambda: cli.main(prog_name="headway", standalone_mode=False)))


def guarded(function: Callable[[], Any]) -> int:
    """Run a command and turn what it raises into lines and a status."""
    try:
        status = function()
        return status if type(status) is int else 0  # of an `Exit` in a command, click makes its result
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
        _write_no_more()  # the reader is gone: nothing to say, and nowhere to say it
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say_error(f"{where}{error.strerror or error}", "headway doctor")
        _write_no_more_if_it_cannot()
        return 1
    except Exception as error:  # the last resort: whatever is wrong with us, a user gets a sentence
        if _is_interrupt(error):
            return 130
        if _DEBUG in os.environ:
            raise
        _say_error(
            f"this is a mistake in Headway itself: {type(error).__name__}: {error}",
            f"please report it, with what the same command says after: export {_DEBUG}=1",
        )
        return 1


def _is_interrupt(error: BaseException) -> bool:
    """Whether it is Ctrl-C in other clothes: while a command's modules are loaded, libraries wrap what they meet."""
    if "KeyboardInterrupt" in str(error):  # pydantic keeps its text alone
        return True
    inner = error.__cause__ or error.__context__
    return isinstance(inner, KeyboardInterrupt) or (inner is not None and _is_interrupt(inner))


def _write_no_more_if_it_cannot() -> None:
    """A full disk below standard output is told once; else Python tries again at its end, and tells of that."""
    try:
        sys.stdout.flush()
    except OSError:
        _write_no_more()


def _write_no_more() -> None:
    """What standard output still holds goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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
