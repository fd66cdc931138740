"""What a supervisor has left running is found by its record, gives its listening sockets, and is ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from headway.process import linux
from headway.process.adoption import Left, end_left, find_left, take_listeners
from headway.process.record import write_record
from headway.process.spec import FIRST_LISTENER_FD, ProcessSpec, ProcessState

WAITS = ("import signal, sys, time\n"
         "signal.signal(getattr(signal, sys.argv[1]), lambda *_: sys.exit(7))\n"
         "print('up', flush=True)\ntime.sleep(60)\n")  # fmt: skip
STUBBORN = ("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('up', flush=True)\ntime.sleep(60)\n")  # fmt: skip
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python code that says when it is up."""
    started: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", code, *arguments]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
        started.append(process)
        assert process.stdout.readline() == "up\n"
        return process  # type: ignore[no-any-return]

    yield begin
    for process in started:
        process.kill()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def ticks_of(pid: int) -> int:
    found = linux.start_ticks(pid)
    assert found is not None
    return found


def left(pid: int, *addresses: str, spec: ProcessSpec | None = None, ticks: int | None = None) -> Left:
    stored = spec.to_json() if spec else None
    return Left(f"p{pid}", pid, ticks_of(pid) if ticks is None else ticks, addresses, stored)


def state(name: str, pid: int, ticks: int) -> dict[str, object]:
    return asdict(ProcessState(name, pid, ticks, alive=True))


def test_where_no_supervisor_was_nothing_is_left(tmp_path: Path) -> None:
    assert find_left(tmp_path) == ([], False)
    (tmp_path / "processes.json").write_text('{"supervisor": {"pid"')  # a disk that was full
    assert find_left(tmp_path) == ([], False)


@pytest.mark.parametrize("detached", [True, False])
def test_only_what_still_runs_is_left(tmp_path: Path, start: Start, detached: bool) -> None:
    alive, ended = start(WAITS, "SIGTERM"), start(WAITS, "SIGTERM")
    engine = ProcessSpec(name="main", argv=("postgres", "-D", "data"), listeners=("127.0.0.1:80",), keep=True)
    app = ProcessSpec(name="web.1", argv=("python",), env={"SECRET": "x"})
    ticks = ticks_of(alive.pid)
    gone = state("ended", ended.pid, ticks_of(ended.pid))
    ended.kill()
    ended.wait(60)
    write_record(
        tmp_path,
        detached,
        [
            (state("main", alive.pid, ticks), engine),
            (state("web.1", alive.pid, ticks), app),
            (gone, app),
            (state("another's", alive.pid, ticks + 1), app),  # its pid was given away again
        ],
    )
    found, was_detached = find_left(tmp_path)
    assert was_detached is detached
    assert [(one.name, one.pid, one.addresses) for one in found] == [
        ("main", alive.pid, ("127.0.0.1:80",)),
        ("web.1", alive.pid, ()),
    ]
    assert found[0].spec == engine
    assert found[1].spec is None
    assert "SECRET" not in (tmp_path / "processes.json").read_text()
    alive.kill()
    alive.wait(60)
    assert not found[0].is_there


def test_the_first_that_gives_all_its_sockets_gives_them(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in (one, two)]
        has_both = start(
            WAITS,
            "SIGTERM",
            preexec_fn=lambda: give(one.fileno(), two.fileno()),
            close_fds=False,
        )
        has_none = start(WAITS, "SIGTERM")
    # The sockets live on in that process alone.
    taken = take_listeners(
        [left(os.getpid()), left(has_none.pid, *addresses), left(has_both.pid, *addresses), left(has_none.pid)]
    )
    if not taken and not linux.duplicate_descriptors(has_both.pid, [1]):
        pytest.skip("the kernel does not let descriptors be copied")
    assert list(taken) == addresses
    try:
        for address, listener in taken.items():
            assert not os.get_inheritable(listener.fileno())
            port = int(address.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=60), listener.accept()[0]:
                pass
    finally:
        for listener in taken.values():
            listener.close()


def give(*listeners: int) -> None:
    """In the child: as the first descriptors that a worker is told of."""
    kept = [os.dup2(fd, 100 + number) for number, fd in enumerate(listeners)]
    for number, fd in enumerate(kept):
        os.dup2(fd, FIRST_LISTENER_FD + number, inheritable=True)


def test_nobody_gives_sockets_that_he_has_not(start: Start) -> None:
    process = start(WAITS, "SIGTERM")
    ended = left(process.pid, "127.0.0.1:80")
    process.kill()
    process.wait(60)
    assert take_listeners([]) == {}
    assert take_listeners([ended]) == {}


def test_each_is_asked_by_its_own_signal_before_it_is_killed(start: Start) -> None:
    app, engine, stubborn = start(WAITS, "SIGTERM"), start(WAITS, "SIGINT"), start(STUBBORN)
    quick = ProcessSpec(name="main", argv=("postgres",), stop_signal=signal.SIGINT, keep=True)
    end_left([left(app.pid), left(engine.pid, spec=quick)], patience_s=30)
    assert (app.wait(60), engine.wait(60)) == (7, 7)
    end_left([left(stubborn.pid)], patience_s=0.1)
    assert stubborn.wait(60) == -signal.SIGKILL


def test_nobody_else_is_ended(start: Start) -> None:
    process = start(WAITS, "SIGTERM")
    end_left([left(process.pid, ticks=ticks_of(process.pid) - 1)], patience_s=0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    end_left([], patience_s=30)


def test_what_is_stored_can_be_started_again() -> None:
    spec = ProcessSpec(name="main", argv=("postgres", "-D", "data"), env={"LC_ALL": "C"}, stop_signal=2, keep=True)
    found = Left("main", 1, 0, (), json.loads(json.dumps(spec.to_json())))
    assert found.spec == spec
