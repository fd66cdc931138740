"""Has spans sent to a collector, where somebody asks for it: keeps the process going that does it."""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping

from headway.errors import HeadwayError, MachineError
from headway.model.declared import System
from headway.process.companion import Companion, start_companion
from headway.process.folders import Folders

# OpenTelemetry's own variables.
ENDPOINT, TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_LIBRARIES = ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk")
_PAUSE_S, _PAUSE_MAX_S, _CALM_S = 1.0, 60.0, 60.0
_END_S = 8.0  # it gives up by itself after two; but it may have to wait for the processor


def collector_of(system: System, environ: Mapping[str, str]) -> dict[str, str] | None:
    """The variables that name the collector; None where nobody asks for one."""
    if not system.traces:
        return None
    if system.otlp is not None:
        return {ENDPOINT: system.otlp, TRACES_ENDPOINT: f"{system.otlp.rstrip('/')}/v1/traces"}
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    named = {name: environ[name] for name in (ENDPOINT, TRACES_ENDPOINT) if environ.get(name)}
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    return named if named and protocol == "http/protobuf" else None


def has_library() -> bool:
    """Whether what speaks to a collector is installed."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in _LIBRARIES)
    except ImportError:
        return False


class Sent:
    """Whether spans of a system are sent. The library is looked for once, for the edge asks often."""

    def __init__(self) -> None:
        self._has_library: bool | None = None

    def __call__(self, system: System) -> bool:
        if collector_of(system, os.environ) is None:
            return False
        if self._has_library is None:
            self._has_library = has_library()
        return self._has_library


def check_exporting(system: System) -> None:
    """MachineError where spans are declared to be sent, and nothing is installed that could."""
    if system.otlp is not None and system.traces and not has_library():
        raise MachineError(
            "system.otlp: OpenTelemetry's exporter is not installed beside Headway", hint=f"{_pip()}, or take it out"
        )


def _pip() -> str:
    return f'{shlex.quote(sys.executable)} -m pip install "headway[otlp]"'


class Exporting:
    """The process that sends, of one controller: it ends with the thread that calls this, the main one."""

    def __init__(self, folders: Folders, tell: Callable[[str, str, str, str], None]) -> None:
        self._folders, self._tell = folders, tell
        self._process: Companion | None = None
        self._sends_to: dict[str, str] | None = None
        self._told = ""
        self._pause_s, self._not_before_s, self._started_s = _PAUSE_S, 0.0, 0.0

    def look(self, system: System, now_s: float) -> None:
        """Start, end or replace it as is wanted now."""
        wanted = collector_of(system, os.environ)
        if wanted is not None and not has_library():
            self._say("not sent", f"of what {ENDPOINT} asks for the library is missing: {_pip()}", "warning")
            wanted = None
        if wanted != self._sends_to:
            self._end(signal.SIGKILL)  # the next one goes on where it was; the loop must not wait for a collector
            self._sends_to, self._pause_s, self._not_before_s = wanted, _PAUSE_S, 0.0
        if wanted is None:
            return
        if self._process is not None and not self._process.lives:
            self._process = None
            self._pause_s = _PAUSE_S if now_s - self._started_s > _CALM_S else min(self._pause_s * 2, _PAUSE_MAX_S)
            self._not_before_s = now_s + self._pause_s
            self._say("ended", f"it starts again in {self._pause_s:g} s; why: headway logs otlp", "warning")
        if self._process is None and now_s >= self._not_before_s:
            self._start(system, wanted, now_s)

    def _start(self, system: System, wanted: dict[str, str], now_s: float) -> None:
        self._started_s = now_s
        try:
            self._process = start_companion(
                (sys.executable, "-m", "headway.control.otlp", str(self._folders.state), system.name),
                env={**os.environ, **wanted},
                cwd="/",
                identity=None,
                log=self._folders.logs / "otlp.log",
                death_signal=signal.SIGTERM,
            )
        except (OSError, HeadwayError) as error:
            self._not_before_s = now_s + _PAUSE_MAX_S
            self._say("failed", str(error), "warning")
            return
        where = (wanted.get(TRACES_ENDPOINT) or wanted[ENDPOINT]).rpartition("@")[2].partition("?")[0]
        self._say("start", f"spans are sent to {where}", "note")

    def _say(self, what: str, reason: str, level: str) -> None:
        if reason != self._told:
            self._told = reason
            self._tell("otlp", what, reason, level)

    def stop(self) -> None:
        """Let it send what is left, and end it."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop(number, _END_S)
