"""`headway drill`: what does this app do when it is too much? One command, on the user's own app."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import click

from headway.cli.drilled import copy_of, first_path, free_port, is_here, log_tail, real_data, service_of, temporary
from headway.cli.start import System
from headway.declaration.load import Loaded, load
from headway.errors import AppError, EngineError, HeadwayError, MachineError, NotRunning
from headway.lab.drill.bare import bare_server
from headway.lab.drill.cores import can_quota, own_cores
from headway.lab.drill.findings import Drill, Subject
from headway.lab.drill.paper import paper
from headway.lab.drill.replicas import Replicas
from headway.lab.drill.run import NORMAL, QUICK, Orders, Pace, run_drill
from headway.lab.drill.table import render
from headway.lab.interrupt import ended_like_ctrl_c, run
from headway.lab.load import burst, run_load
from headway.lab.page_file import check_writable, write_page
from headway.lab.target import parse_target
from headway.model.declared import Service
from headway.model.declared import System as Declared
from headway.model.units import format_duration, parse_duration_s
from headway.process.run import run as run_program
from headway.worker import telemetry

DEFAULT_SLO_S = 0.25
# A client of the drill gives up after this many SLOs, but not before a second and not after the service itself would.
PATIENCE_SLOS, PATIENCE_MIN_S = 4.0, 1.0
_BARE_UP_S = 30.0
_THREADS = 8
_MODULE_S = 20.0
_SIZES_MAX = 16


@dataclass(frozen=True, slots=True)
class Options:
    """What was typed."""

    target: str | None
    url: str | None
    path: str | None
    slo: str | None
    sizes: str | None
    report: str | None
    overlay: str | None
    quick: bool
    bare: bool
    yes: bool
    ca: str | None = None


def drill(options: Options, here: Callable[[], System], *, as_json: bool) -> None:
    """Run the drill and print its page. `here` gives the system of this folder, for --url."""
    _check(options)
    say = _progress(as_json)
    with ended_like_ctrl_c():
        found = _drill_url(options, here(), say) if options.url else _drill_declared(options, say)
    tell(found, options.report, as_json=as_json)


def tell(found: Drill, report: str | None, *, as_json: bool) -> None:
    """Print it, then write its page: minutes of work are not lost to a disk that is full by now."""
    click.echo(json.dumps(found.as_json()) if as_json else "\n" + render(found))
    if report:
        write_page(Path(report), paper(found, shlex.join(["headway", "drill", *sys.argv[2:]])))
        click.echo(f"report: {os.path.abspath(report)}", err=True)


def _check(options: Options) -> None:
    """Refuse what cannot work while nothing has been started."""
    if options.url and (options.target or options.bare or options.sizes or options.overlay):
        raise HeadwayError(
            "--url drills what runs already: it takes no target, --env, --bare or --sizes",
            hint="headway drill --url URL, or headway drill TARGET",
        )
    if options.ca is not None and not options.url:
        raise HeadwayError("--ca: a system of our own is drilled without TLS", hint="headway drill --url URL --ca FILE")
    if options.path is not None and not options.path.startswith("/"):
        raise HeadwayError(f'--path: "{options.path}" is no path', hint='a path begins with "/": --path /health')
    if options.report:
        check_writable(Path(options.report))
    _slo_s(options.slo)
    _sizes(options)


def _slo_s(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text) / 1000 if text.replace(".", "", 1).isdigit() else parse_duration_s(text)
    except ValueError as error:
        raise HeadwayError(f"--slo: {error}", hint="--slo 250ms") from None
    if value <= 0:
        raise HeadwayError("--slo: an answer takes more than 0 ms", hint="--slo 250ms")
    return value


def _sizes(options: Options) -> tuple[float, ...]:
    """Sizes asked for, else 1, 2, 4, … up to all cores, with half a core where a quota can be had."""
    cores = len(own_cores())
    if options.sizes is None:
        if options.quick:
            return ()
        whole = sorted({min(2**power, cores) for power in range(cores.bit_length() + 1)})
        return tuple(float(size) for size in whole)
    hint = f"from above 0 to the {cores} cores there are: --sizes {','.join(str(n) for n in range(1, cores + 1))}"
    try:
        sizes = sorted({float(part) for part in options.sizes.split(",")})
    except ValueError:
        raise HeadwayError(f'--sizes: "{options.sizes}" is no list of cores', hint=hint) from None
    for size in sizes:
        if not 0 < size <= cores or (size > 1 and size != int(size)):
            raise HeadwayError(f"--sizes: {size:g} cores cannot be given to workers here", hint=hint)
    if len(sizes) > _SIZES_MAX:
        raise HeadwayError(f"--sizes: {len(sizes)} are too many, {_SIZES_MAX} at most", hint=hint)
    if sizes[0] < 1 and not can_quota():
        raise MachineError(
            f"--sizes: {sizes[0]:g} of a core needs a control group, which this user may not make here",
            hint="whole cores need none: --sizes 1",
        )
    return tuple(sizes)


def _progress(as_json: bool) -> Callable[[str], None]:
    """Lines with the time passed; beside a JSON document only where a person watches."""
    if as_json and not sys.stderr.isatty():
        return lambda _text: None
    began_s = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began_s:5.0f} s   {text}", err=as_json)

    return say


def _run(orders: Orders, say: Callable[[str], None]) -> Drill:
    estimate_s = orders.pace.estimate_s(sizes=len(orders.sizes), bare=orders.start_bare is not None, kills=orders.kills)
    about_s = round(estimate_s / 5) * 5
    say(f"drilling {orders.subject.url}: this takes about {about_s} s, longer where it is slow to calm down")
    return run(run_drill(orders, say))


# -- a system of our own ----------------------------------------------------------------------------------------------


def _drill_declared(options: Options, say: Callable[[str], None]) -> Drill:
    loaded = load(options.target, cwd=Path.cwd(), environment=os.environ, overlay=options.overlay)
    copy = copy_of(loaded.system, free_port())
    path = options.path or first_path(copy.system)
    name = service_of(copy.system, path)
    real = real_data(copy.system, os.environ, loaded.root)
    if real and not options.yes:
        raise HeadwayError(
            f"a drill would load what is not its own: {', '.join(real)}",
            hint="point it to a copy (--env), or if it may be loaded: headway drill --yes",
        )
    sizes = _sizes(options)
    say(f"starting {copy.system.name} beside what runs, with fresh embedded databases")
    with temporary(loaded, copy.system) as system:
        url = f"{system.client.status()['edge']['url']}{path}"
        replicas = Replicas(system.client, name)
        subject = _subject(options, copy.system, name, url, len(replicas.ready_pids()))
        start_bare = _bare_starter(system, loaded, copy.system, name, path, subject) if options.bare else None
        notes = (*_slo_notes(copy.system.services[name], subject), *copy.notes)
        orders = Orders(subject, _pace(options), replicas, kills=True, sizes=sizes, start_bare=start_bare, notes=notes)
        try:
            return _run(orders, say)
        except AppError as error:
            raise AppError(error.message, hint=error.hint, detail=error.detail or log_tail(system, name)) from error


def _pace(options: Options) -> Pace:
    return QUICK if options.quick else NORMAL


def _subject(options: Options, declared: Declared, name: str, url: str, replicas: int) -> Subject:
    service = declared.services[name]
    asked_s = _slo_s(options.slo)
    slo_s = asked_s or service.slo_s or DEFAULT_SLO_S
    slo_from: Literal["option", "declared", "default"] = (
        "option" if asked_s else "declared" if service.slo_s else "default"
    )
    deadline_s = min(service.deadline_s, max(PATIENCE_MIN_S, PATIENCE_SLOS * slo_s))
    return Subject(declared.name, url, name, replicas, slo_s, slo_from, deadline_s, len(own_cores()))


def _slo_notes(service: Service, subject: Subject) -> tuple[str, ...]:
    if service.slo_s is not None:
        return ()
    line = f'slo = "{subject.slo_s * 1000:.0f}ms" in [services.{subject.service}]'
    return (f"no slo is declared, so only memory and the deadline refuse; to hold under overload: {line}",)


# -- the same app without us ------------------------------------------------------------------------------------------


def _bare_starter(
    system: System, loaded: Loaded, declared: Declared, name: str, path: str, subject: Subject
) -> Callable[[], Awaitable[tuple[str, str]]]:
    """Adds the bare server to the running drill as one more command, so that it ends with all the rest."""

    async def start() -> tuple[str, str]:
        service = declared.services[name]
        port = free_port()
        server = bare_server(
            python=service.python or sys.executable,
            app=service.app or "",
            is_wsgi=_is_wsgi(system, name),
            modules=await asyncio.to_thread(_modules, service),
            workers=subject.replicas,
            threads=service.threads or _THREADS,
            port=port,
        )
        command = Service(
            command=server.argv, env=service.env, folder=service.folder, python=service.python, uses=service.uses
        )
        free = next(word for word in ("bare", "bare-server", "bare-twin") if word not in declared.services)
        wider = declared.model_copy(update={"services": {**declared.services, free: command}})
        data = {"system": wider.model_dump(mode="json"), "root": str(loaded.root), "source": loaded.source}
        await asyncio.to_thread(system.client.ask, "POST", "/apply", {**data, "environ": {}}, timeout_s=60.0)
        url = f"http://127.0.0.1:{port}{path}"
        await _answers(url, server.name, system, free)
        return server.name, url

    return start


def _is_wsgi(system: System, service: str) -> bool:
    entries = system.client.status()["services"][service]["replicas"]
    for entry in entries:
        slots = telemetry.attach(str(system.folders.replicas / f"{entry['name']}.tele"))
        if slots is not None:
            return bool(slots[telemetry.Slot.IS_WSGI])
    return False


def _modules(service: Service) -> frozenset[str]:
    """Which servers the app's interpreter has."""
    program = "import importlib.util as u; print(*[m for m in ('uvicorn', 'gunicorn') if u.find_spec(m)])"
    with contextlib.suppress(EngineError):
        done = run_program([service.python or sys.executable, "-c", program], timeout_s=_MODULE_S)
        return frozenset(done.stdout.split())
    return frozenset()


async def _answers(url: str, name: str, system: System, service: str) -> None:
    until_s = time.monotonic() + _BARE_UP_S
    while time.monotonic() < until_s:
        with contextlib.suppress(NotRunning):
            found = await run_load(burst(url, 1, deadline_s=5.0))
            if found.ok:
                return
        await asyncio.sleep(0.05)
    raise AppError(
        f"{name} did not serve the app by itself within {_BARE_UP_S:.0f} s",
        hint="without the comparison: leave out --bare",
        detail=log_tail(system, service),
    )


# -- a system that runs already ---------------------------------------------------------------------------------------


def _drill_url(options: Options, here: System, say: Callable[[str], None]) -> Drill:
    url = options.url or ""
    target = parse_target(url)
    if not options.yes and not is_here(target):
        _ask(target.host)
    parts = urlsplit(url)
    if options.path is not None:
        url = f"{parts.scheme}://{parts.netloc}{options.path}"
    slo_s = _slo_s(options.slo) or DEFAULT_SLO_S
    subject = Subject(
        system=parts.netloc or url,
        url=url,
        service="–",
        replicas=0,
        slo_s=slo_s,
        slo_from="option" if options.slo else "default",
        deadline_s=max(PATIENCE_MIN_S, PATIENCE_SLOS * slo_s),
        cores=len(own_cores()),
    )
    replicas = _replicas_behind(here, url)
    if replicas is not None:
        subject = replace(subject, service=replicas.service, replicas=len(replicas.ready_pids()))
    notes = () if options.slo else (f"no --slo was given: {format_duration(slo_s)} was taken",)
    kills = replicas is not None and options.yes
    if not kills:
        notes = (*notes, "no replica was killed: that needs this folder's own system, and --yes")
    return _run(Orders(subject, _pace(options), replicas, kills=kills, notes=notes, ca_file=options.ca), say)


def _ask(host: str) -> None:
    """A drill is an attack on whom it does not belong to."""
    question = f"{host} is not this machine, and a drill gives it ten times the load that it can carry"
    if not sys.stdin.isatty():
        raise HeadwayError(question, hint="if it is yours: headway drill --url URL --yes")
    click.confirm(f"{question}. Is it yours?", abort=True, err=True)


def _replicas_behind(here: System, url: str) -> Replicas | None:
    """The replicas that answer `url`, when this folder's system is behind it."""
    try:
        document: dict[str, Any] = here.client.status()
    except HeadwayError:
        return None
    parts = urlsplit(url)
    if not any(urlsplit(own).netloc == parts.netloc for own in document["edge"]["urls"]):
        return None
    routed = {name: Service(routes=tuple(entry["routes"])) for name, entry in document["services"].items()}
    try:
        return Replicas(here.client, service_of(Declared(services=routed), parts.path or "/"))
    except HeadwayError:
        return None
