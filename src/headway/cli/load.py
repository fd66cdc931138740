"""`headway load`: an open-loop load from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Literal

import click

from headway.errors import HeadwayError
from headway.lab.load import LoadPlan, Progress, Request, render
from headway.lab.load import load as run_load
from headway.model.units import parse_duration_s


def load(
    url: str,
    *,
    rate: float,
    duration: str,
    slo: str | None,
    deadline: str,
    method: str,
    connections: Literal["new", "keep"],
    arrivals: Literal["poisson", "constant", "burst"],
    seed: int,
    insecure: bool,
    as_json: bool,
) -> None:
    """Run the load and print its result."""
    plan = LoadPlan(
        url,
        rate,
        _seconds("--for", duration, bare_s=1.0),
        requests=(Request(method=method.upper()),),
        pattern=arrivals,
        connections=connections,
        slo_s=_seconds("--slo", slo) if slo else None,
        deadline_s=_seconds("--deadline", deadline),
        seed=seed,
        insecure=insecure,
    )
    result = run_load(plan, on_progress=_progress() if sys.stderr.isatty() and not as_json else None)
    click.echo(json.dumps(result.as_json()) if as_json else render(result))


def _seconds(option: str, text: str, *, bare_s: float = 0.001) -> float:
    """A duration; a bare number is milliseconds, as `--slo 250` reads, or what the option is usually said in."""
    try:
        return float(text) * bare_s if text.replace(".", "", 1).isdigit() else parse_duration_s(text)
    except ValueError as error:
        raise HeadwayError(f"{option}: {error}", hint=f"{option} 250ms, {option} 10s") from None


def _progress() -> Callable[[Progress], Any]:
    def show(progress: Progress) -> None:
        print(f"\r{progress}", end="", file=sys.stderr, flush=True)

    return show
