"""`headway break`: breaks a part of the running system on purpose, under load, and tells who noticed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import click

from headway.cli.show import table
from headway.cli.start import System
from headway.control.stored import Store
from headway.errors import HeadwayError
from headway.lab.fault import Fault, Part, check_rate, check_ready, fault_of, find_part, parts_of, route_of
from headway.lab.fault_run import FaultPlan, break_part
from headway.lab.fault_verdict import Broken, after, promises, sentence
from headway.lab.interrupt import ended_like_ctrl_c
from headway.lab.target import Request, parse_target, wire_request
from headway.model.units import format_duration, parse_duration_s
from headway.process.record import read_record

_MARKS = {True: "✓", False: "✗", None: "·"}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    what: tuple[str, ...]
    how: str
    duration: str | None
    rate: float
    path: str | None
    yes: bool
    none_failed: bool


def break_(system: System, options: Options, *, as_json: bool) -> None:
    """Break it, and print what that did; 0 whenever it could be measured."""
    check_rate(options.rate)
    for_s = _seconds(options.duration)
    document = system.client.status()
    part = find_part(options.what, parts_of(document, read_record(system.folders)))
    fault = fault_of(part, options.how, for_s)
    check_ready(document)
    url, host = _target(document, part, options.path)
    plan = FaultPlan(fault, url, options.rate, _slo_s(system, document, part), host)
    if not options.yes and sys.stdin.isatty():
        _confirm(fault, document)
    with ended_like_ctrl_c():
        broken = break_part(plan, system.folders, system.client, _say(silent=as_json))
    if as_json:
        click.echo(json.dumps(broken.as_json()))
    else:
        click.echo("\n" + "\n".join(report_lines(broken)))
    lost = broken.failed + broken.refused
    if options.none_failed and lost:
        raise HeadwayError(f"{lost} of {broken.offered} requests came to nothing", hint="headway explain")


def report_lines(broken: Broken) -> list[str]:
    """The measurement for a person."""
    counts = (
        f"{broken.offered} offered, {broken.ok} in time, {broken.slow} slow (over {format_duration(broken.slow_s)})"
    )
    counts += f", {broken.refused} refused, {broken.failed} failed"
    slowest = "nothing was answered" if broken.slowest_ms is None else format_duration(broken.slowest_ms / 1000)
    noticed = after(broken.noticed_s) + (f": {broken.noticed_by}" if broken.noticed_by else "")
    rows = [
        ("noticed", noticed),
        ("as before", after(broken.recovered_s)),
        ("requests", counts),
        ("slowest", f"{slowest}; the median before was {format_duration((broken.median_before_ms or 0) / 1000)}"),
    ]
    if broken.failures:
        rows.append(("failures", ", ".join(f"{count} x {reason}" for reason, count in broken.failures.items())))
    lines = table(rows)
    promised = [(_MARKS[row.kept], row.text, row.measured) for row in promises(broken)]
    lines += ["", *table([("", "promised", "measured"), *promised]), "", sentence(broken)]
    return lines


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else parse_duration_s(text)
    except ValueError as error:
        raise HeadwayError(f"--for: {error}", hint="--for 10s") from None


def _target(document: dict[str, Any], part: Part, path: str | None) -> tuple[str, str]:
    """What the load asks for, and of which host; checked before anything is broken."""
    url = document["edge"]["url"]
    if not url:
        raise HeadwayError(
            "no service is public, so there is nothing to load while a part is broken", hint='routes = ["/"]'
        )
    host, asked = route_of(part, document, path)
    wire_request(Request(path=asked, host=host), parse_target(url), keep=True)
    return f"{url}{asked}", host


def _slo_s(system: System, document: dict[str, Any], part: Part) -> float | None:
    """The SLO of the service that is broken, else the strictest of the public ones."""
    applied = Store(system.folders.state, system.folders.run).load_applied()
    services = applied.system.services if applied else {}
    if part.service in services:
        return services[part.service].slo_s
    return min((service.slo_s for service in services.values() if service.slo_s and service.routes), default=None)


def _confirm(fault: Fault, document: dict[str, Any]) -> None:
    deed = "kills" if fault.how == "kill" else f"stops, for {fault.for_s:g} s at most,"
    click.confirm(
        f"This {deed} {fault.part.label} of {document['system']} (pid {fault.part.pid}). Go on?", abort=True, err=True
    )


def _say(*, silent: bool) -> Any:
    return (lambda _text: None) if silent else (lambda text: click.echo(f"  {text}"))
