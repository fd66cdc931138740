"""Transactions at work are bounded over all processes, served in order, and freed by the kernel when a process dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from permits_process import acquire

from headway.errors import DatabaseBusy
from headway.sharding.client import permits as permits_module
from headway.sharding.client.permits import Permits

_PROCESS = Path(__file__).parent / "permits_process.py"


def _begin(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def _start(folder: Path, *, most: int, threads: int, seconds: float, hold_s: float) -> subprocess.Popen[str]:
    arguments = [str(folder), str(most), str(threads), str(seconds), str(hold_s)]
    return subprocess.Popen(
        [sys.executable, str(_PROCESS), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("shared", [False, True])
def test_no_more_than_the_bound_in_one_process(tmp_path, shared):
    permits = Permits("s1", 2, tmp_path if shared else None)
    first, second = permits.take(), permits.take()
    assert sorted([first, second]) == [0, 1]
    assert permits.take() == -1
    permits.give_back(first)
    assert permits.take() == first


def test_those_who_wait_are_served_in_order(tmp_path):
    permits = Permits("s1", 1, tmp_path)
    held = permits.take()
    order: list[int] = []
    waiters = [permits.wait(lambda number=number: order.append(number)) for number in range(3)]
    for waiter in waiters:
        permits.give_back(held)
        assert permits.leave(waiter) == held
    assert order == [0, 1, 2]
    assert permits.take() == -1
    permits.give_back(held)
    assert permits.at_work == 0


def test_one_who_leaves_is_passed_over(tmp_path):
    permits = Permits("s1", 1, tmp_path)
    held = permits.take()
    gone, stays = permits.wait(lambda: None), permits.wait(lambda: None)
    assert permits.leave(gone) == -1
    permits.give_back(held)
    assert permits.leave(stays) == held


def test_a_closed_loop_gets_no_permit(tmp_path):
    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    permits = Permits("s1", 1, tmp_path)
    held = permits.take()
    permits.wait(closed)
    permits.give_back(held)
    assert permits.at_work == 0


def test_the_queue_of_a_process_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(permits_module, "WAITERS_MAX", 3)
    permits = Permits("s1", 1, tmp_path)
    permits.take()
    for _ in range(3):
        permits.wait(lambda: None)
    with pytest.raises(DatabaseBusy, match="server s1 is busy"):
        permits.wait(lambda: None)


def test_several_processes_share_the_bound_fairly(tmp_path):
    """Each holder claims a file that must not be there: two with one permit would fail."""
    processes = [_start(tmp_path, most=2, threads=10, seconds=4.0, hold_s=0.001) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "up\n"
    for process in processes:
        _begin(process)
    told = [process.communicate(timeout=120)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    done, longest_s = [int(line[0]) for line in told], [float(line[1]) for line in told]
    assert min(done) > sum(done) / 4 / 3, done
    assert max(longest_s) < 3.0, "nobody waits for as long as others ask"


def test_a_killed_process_frees_its_permits_at_once(tmp_path):
    process = _start(tmp_path, most=2, threads=2, seconds=60.0, hold_s=60.0)
    _begin(process)
    permits = Permits("s1", 2, tmp_path)
    while not all((tmp_path / f"claim-{number}").exists() for number in range(2)):
        time.sleep(0.01)
    assert permits.take() == -1
    process.kill()
    process.wait(10)
    killed_s = time.monotonic()
    assert acquire(permits, 50.0) >= 0
    assert time.monotonic() - killed_s < 40.0, "long before its sixty seconds are over"


def test_a_killed_process_that_waited_bothers_nobody(tmp_path):
    """Its word "I wait" stays behind: it must not cost the others their turns."""
    permits = Permits("s1", 1, tmp_path)
    held = permits.take()
    process = _start(tmp_path, most=1, threads=2, seconds=60.0, hold_s=0.001)
    _begin(process)
    until_s = time.monotonic() + 60
    while not permits._others_wait():
        assert time.monotonic() < until_s
        time.sleep(0.01)
    process.kill()
    process.wait(10)
    assert not permits._others_wait()
    permits.give_back(held)


def test_a_forked_child_holds_nothing_of_its_parent(tmp_path):
    """The child inherits the descriptor, and with it would keep the parent's locks alive."""
    parent = Permits("s1", 1, tmp_path)
    held = parent.take()
    ready, child_ends = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.write(ready[1], b"1" if parent.take() == -1 and parent.at_work == 0 else b"0")
        os.read(child_ends[0], 1)
        os._exit(0)
    try:
        assert os.read(ready[0], 1) == b"1"
        parent.give_back(held)
        other = Permits("s1", 1, tmp_path)
        assert other.take() == 0
    finally:
        os.write(child_ends[1], b"1")
        os.waitpid(pid, 0)


def test_threads_of_one_process_are_all_served(tmp_path):
    permits = Permits("s1", 2, tmp_path)
    served: list[int] = []

    def work() -> None:
        for _ in range(50):
            permit = acquire(permits)
            assert permit >= 0
            served.append(permit)
            permits.give_back(permit)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert len(served) == 400
    assert permits.at_work == 0
    assert permits.waiting == 0


def test_one_of_an_app_with_many_clients_hears_what_another_process_gives_up(tmp_path):
    """Its descriptors are above 1023 then."""
    other = Permits("s1", 1, tmp_path)
    held = other.take()
    nothing = os.open(os.devnull, os.O_RDONLY)
    many = [os.dup(nothing) for _ in range(1100)]
    try:
        permits = Permits("s1", 1, tmp_path)
        woken = threading.Event()
        assert permits.take() == -1
        waiter = permits.wait(woken.set)
        assert not woken.wait(0.1)
        other.give_back(held)
        assert woken.wait(60)
        assert permits.leave(waiter) == held
    finally:
        for descriptor in (nothing, *many):
            os.close(descriptor)
