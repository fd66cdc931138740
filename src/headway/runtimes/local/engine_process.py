"""The process of an embedded engine at the supervisor: what databases and caches have alike of theirs.

How each comes up, what is a sign of life, and what is done about silence differs by engine, and is told by each.
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from headway.errors import EngineError, HeadwayError
from headway.process.identity import Identity
from headway.process.spec import ProcessSpec, ProcessState


def engine_spec(
    name: str,
    logs: Path,
    *,
    argv: tuple[str, ...],
    env: Mapping[str, str],
    identity: Identity | None,
    stop_signal: int,
    stop_timeout_s: float,
    death_signal: int = signal.SIGKILL,
    cwd: str = "/",
) -> ProcessSpec:
    """How it starts: again by itself when it ends, into one log, and adopted by the next supervisor."""
    log = str(_log(logs, name))
    return ProcessSpec(
        name=name,
        argv=argv,
        env=dict(env),
        cwd=cwd,
        uid=identity.uid if identity else None,
        gid=identity.gid if identity else None,
        stdout=log,
        stderr=log,
        restart=True,
        stop_signal=stop_signal,
        stop_timeout_s=stop_timeout_s,
        death_signal=death_signal,
        keep=True,
    )


def pid_of(known: ProcessState | None) -> int | None:
    """Of the process that lives; None while there is none, or when it is somewhere else."""
    return known.pid if known is not None and known.alive else None


def as_told(error: Exception) -> HeadwayError:
    """What went wrong, be it a defect of ours: a thread that died of it would leave its engine to nobody."""
    if isinstance(error, HeadwayError):
        return error
    traceback.print_exc()
    return EngineError(f"{type(error).__name__}: {error}", hint="headway logs controller")


def watched(
    watch: Callable[[], None], stop: threading.Event, again_s: float, tell: Callable[[HeadwayError], None]
) -> None:
    """Have `watch` go on until `stop`, whatever it meets; the same error is told once."""
    before = ""
    while not stop.is_set():
        try:
            watch()
        except Exception as error:
            found = as_told(error)
            if found.message != before:
                tell(found)
            before = found.message
            stop.wait(again_s)


def log_tail(logs: Path, name: str, most_bytes: int) -> str:
    """The last that it said; empty where that cannot be read."""
    try:
        with open(_log(logs, name), "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - most_bytes))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _log(logs: Path, name: str) -> Path:
    return logs / f"{name}.log"
