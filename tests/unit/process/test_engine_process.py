"""The process of an embedded engine: how the supervisor is to have it, and what it said at the last."""

from __future__ import annotations

import signal
from pathlib import Path

from headway.process.identity import Identity
from headway.process.spec import ProcessState
from headway.runtimes.local.engine_process import engine_spec, log_tail, pid_of


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
