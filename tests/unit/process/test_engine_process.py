"""The process of an embedded engine: how the supervisor is to have it, and what it said at the last."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from headway.errors import EngineError
from headway.process.identity import Identity
from headway.process.spec import ProcessState
from headway.runtimes.local.engine_process import engine_spec, log_tail, pid_of, watched


def test_it_starts_again_by_itself_is_adopted_and_has_one_log(tmp_path: Path) -> None:
    spec = engine_spec(
        "cache.hot",
        tmp_path,
        argv=("valkey",),
        env={"A": "b"},
        identity=Identity("nobody", 65534, 65533),
        stop_signal=signal.SIGTERM,
        stop_timeout_s=5.0,
    )
    assert (spec.restart, spec.keep, spec.uid, spec.gid) == (True, True, 65534, 65533)
    assert spec.stdout == spec.stderr == str(tmp_path / "cache.hot.log")
    assert log_tail(tmp_path, "cache.hot", 4) == ""
    (tmp_path / "cache.hot.log").write_bytes(b"first\n\xfflast")
    assert log_tail(tmp_path, "cache.hot", 4) == "last"
    assert log_tail(tmp_path, "cache.hot", 4096) == "first\n\ufffdlast"


def test_a_pid_is_that_of_a_process_that_lives() -> None:
    state = {"name": "cache.hot", "pid": 7, "ticks": 1}
    assert pid_of(ProcessState(**state, alive=True)) == 7
    assert pid_of(ProcessState(**state, alive=False)) is None
    assert pid_of(None) is None


def test_a_watch_goes_on_whatever_it_meets_and_tells_the_same_once() -> None:
    stop, told = threading.Event(), []
    met: list[Exception] = [KeyError("pid"), KeyError("pid"), EngineError("it is away")]

    def watch() -> None:
        if not met:
            stop.set()
            return
        raise met.pop(0)

    watched(watch, stop, 0.0, lambda error: told.append(error.message))
    assert told == ["KeyError: 'pid'", "it is away"]
