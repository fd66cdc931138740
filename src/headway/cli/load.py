"""`headway load`: an open-loop load from the command line."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import click

from headway.cli.start import System
from headway.errors import HeadwayError
from headway.lab.interrupt import ended_like_ctrl_c
from headway.lab.load import Interrupted, LoadPlan, LoadResult, Request, render, scheduled
from headway.lab.load import load as run_load
from headway.lab.mix import REQUESTS_MAX, parse_header, parse_request, read_body, read_requests, with_content
from headway.lab.page_file import check_writable, write_page
from headway.lab.report_page import Context, report_page
from headway.lab.schedule import parse_schedule
from headway.lab.target import parse_target
from headway.lab.watched import Sample, Watch, is_edge_of
from headway.model.units import parse_duration_s

_DURATION = "10s"
# Headers whose value is a secret: a report is passed around.
_SECRET = ("authorization", "cookie", "token", "secret", "key", "password", "session")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said, as it said it."""

    url: str
    rate: float | None
    duration: str | None
    schedule: tuple[str, ...]
    slo: str | None
    deadline: str
    method: str
    request: tuple[str, ...]
    requests: str | None
    header: tuple[str, ...]
    body: str | None
    connections: Literal["new", "keep"]
    arrivals: Literal["poisson", "constant", "burst"]
    seed: int
    insecure: bool
    ca: str | None
    report: str | None


def load(options: Options, system: System, *, state_given: bool, as_json: bool) -> None:
    """Run the load, print its result, and write its report."""
    plan = plan_of(options)
    if options.report is not None:
        check_writable(Path(options.report))
    elif state_given:
        raise HeadwayError("--state is for the plots of a report", hint="add --report FILE.html")
    watch = _watch(options, system, state_given=state_given)
    interrupt: Interrupted | None = None
    with ended_like_ctrl_c():
        try:
            with watch or contextlib.nullcontext(), _on_terminal(plan, silent=as_json) as on_progress:
                result = run_load(plan, on_progress)
        except Interrupted as error:
            interrupt, result = error, error.result
            click.echo(f"interrupted after {result.duration_s:.3g} of {plan.duration_s:g} s", err=True)
    click.echo(json.dumps(result.as_json()) if as_json else render(result))
    if options.report is not None:
        _write(Path(options.report), result, plan, options, watch.samples if watch else ())
    if interrupt is not None:
        raise interrupt


def plan_of(options: Options) -> LoadPlan:
    """The plan that the options ask for; HeadwayError when they do not fit together."""
    common: dict[str, Any] = {
        "requests": _requests(options),
        "pattern": options.arrivals,
        "connections": options.connections,
        "slo_s": _seconds("--slo", options.slo) if options.slo else None,
        "deadline_s": _seconds("--deadline", options.deadline),
        "seed": options.seed,
        "insecure": options.insecure,
        "ca_file": options.ca,
    }
    if options.schedule:
        if options.rate is not None or options.duration is not None:
            raise HeadwayError("a schedule says rate and duration itself", hint="leave out --rate and --for")
        return scheduled(options.url, parse_schedule(options.schedule), **common)
    if options.rate is None:
        raise HeadwayError(
            "how many requests a second?", hint='give --rate 100, or --schedule "100 for 10s, 1000 for 3s"'
        )
    return LoadPlan(options.url, options.rate, _seconds("--for", options.duration or _DURATION, bare_s=1.0), **common)


def _requests(options: Options) -> tuple[Request, ...]:
    method = options.method.upper()
    found = [parse_request(text, method) for text in options.request]
    if options.requests is not None:
        found += read_requests(Path(options.requests))
    if len(found) > REQUESTS_MAX:
        raise HeadwayError(f"{len(found)} kinds of requests; {REQUESTS_MAX} are possible", hint="leave some out")
    body = read_body(options.body) if options.body is not None else None
    return with_content(found or [Request(method)], [parse_header(text) for text in options.header], body)


def _seconds(option: str, text: str, *, bare_s: float = 0.001) -> float:
    """A duration; a bare number is milliseconds, as `--slo 250` reads, or what the option is usually said in."""
    try:
        return float(text) * bare_s if text.replace(".", "", 1).isdigit() else parse_duration_s(text)
    except ValueError as error:
        raise HeadwayError(f"{option}: {error}", hint=f"{option} 250ms, {option} 10s") from None


@contextlib.contextmanager
def _on_terminal(plan: LoadPlan, *, silent: bool) -> Iterator[Any]:
    """The picture of the running load, where somebody sees it; None elsewhere."""
    if silent or not sys.stderr.isatty():
        yield None
        return
    from headway.cli.load_view import LoadView

    view = LoadView(plan.url)
    try:
        yield view.update
    finally:
        view.close()


def _watch(options: Options, system: System, *, state_given: bool) -> Watch | None:
    """A watch on the system that the load goes to, when that is this folder's or the one that was named."""
    if options.report is None:
        return None
    try:
        document = system.client.status()
    except HeadwayError:
        if state_given:
            raise
        return None
    return Watch(system.client) if state_given or is_edge_of(document, parse_target(options.url)) else None


def _write(path: Path, result: LoadResult, plan: LoadPlan, options: Options, samples: Sequence[Sample]) -> None:
    made_at = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    context = Context(plan.url, command_line(options), made_at, plan.slo_s, tuple(samples))
    write_page(path, report_page(result, context))
    click.echo(f"report: {os.path.abspath(path)}", err=True)


def command_line(options: Options) -> str:
    """The command that makes the same load again, without the values of secret headers."""
    words = ["headway", "load", options.url]
    given = {
        "--rate": f"{options.rate:g}" if options.rate is not None else None,
        "--for": None if options.schedule else options.duration or _DURATION,
        "--slo": options.slo,
        "--deadline": options.deadline,
        "--method": options.method if options.method != "GET" else None,
        "--requests": options.requests,
        "--body": options.body,
        "--connections": options.connections,
        "--arrivals": options.arrivals,
        "--ca": options.ca,
        "--seed": str(options.seed),
    }
    for name, value in given.items():
        words += [name, value] if value is not None else []
    for name, values in (("--schedule", options.schedule), ("--request", options.request)):
        words += [word for value in values for word in (name, value)]
    words += [word for header in options.header for word in ("--header", _without_secret(header))]
    return shlex.join([*words, *(["--insecure"] if options.insecure else [])])


def _without_secret(header: str) -> str:
    name = header.partition(":")[0]
    return f"{name}: …" if any(word in name.lower() for word in _SECRET) else header
