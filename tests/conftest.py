"""Options of the test run: `--reliability FILE` writes the table of the long tests."""

from __future__ import annotations

import inspect
import os
import platform
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import settings

# What is found must not depend on how busy the machine is.
settings.register_profile("headway", deadline=None)
settings.load_profile("headway")
# Nor on the five seconds that a client of httpx waits where nobody says how long.
_usual = inspect.signature(httpx.request).parameters["timeout"].default
_usual.connect = _usual.read = _usual.write = _usual.pool = 60.0

_CACHE = "headway/reliability"
_HEAD = """# Reliability

What `make test-long` ran last: many seeds and long faults, with the real engines where the test says so. A seed replays
its run. The short ones of the same kind run in `make test`.

Run {when} on {cores} cores ({machine}), {passed} of {count} passed, in {minutes:.0f} minutes.

| test | runs | passed | longest run |
|---|---|---|---|
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", metavar="FILE", help="write the outcomes as a table in Markdown")
    parser.addoption("--go-on", action="store_true", help="the table begins with what the run before this one found")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--reliability")
    if path and not hasattr(config, "workerinput"):
        former = config.cache.get(_CACHE, {}) if config.getoption("--go-on") and config.cache else {}
        config.pluginmanager.register(_Reliability(Path(path), config, former))


class _Reliability:
    """Collects outcomes by test function."""

    def __init__(self, path: Path, config: pytest.Config, former: dict[str, Any]) -> None:
        self._path = path
        self._config = config
        self._began_s = time.monotonic() - former.get("took_s", 0.0)
        self._outcomes: dict[str, list[tuple[bool, float]]] = {
            name: [(passed, took_s) for passed, took_s in runs] for name, runs in former.get("outcomes", {}).items()
        }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed:
            name = report.nodeid.split("[")[0]
            self._outcomes.setdefault(name, []).append((report.passed, report.duration))

    def pytest_sessionfinish(self) -> None:
        if self._config.cache:
            took_s = time.monotonic() - self._began_s
            self._config.cache.set(_CACHE, {"took_s": took_s, "outcomes": self._outcomes})
        runs = [run for outcome in self._outcomes.values() for run in outcome]
        text = _HEAD.format(
            when=time.strftime("%Y-%m-%d"),
            cores=len(os.sched_getaffinity(0)),
            machine=platform.machine(),
            passed=sum(passed for passed, _ in runs),
            count=len(runs),
            minutes=(time.monotonic() - self._began_s) / 60,
        )
        for name, outcome in sorted(self._outcomes.items()):
            what = name.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            passed = sum(ok for ok, _ in outcome)
            longest_s = max(duration for _, duration in outcome)
            text += f"| {what} | {len(outcome)} | {passed} | {longest_s:.0f} s |\n"
        self._path.write_text(text)
