"""Requests that hold memory, all at once: as many are let in as fit, the others wait, and nothing is killed."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest
from harness import Running
from holding import DECLARATION, overload, system_of, tell

from headway.lab.load import burst, load

pytestmark = pytest.mark.alone

HOLD_MIB = 4
SHARE_MIB = 256


class Peak:
    """The largest resident size of a process while the block runs."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._file = Path(f"/proc/{pid}/statm")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            try:
                pages = int(self._file.read_text().split()[1])
            except (OSError, IndexError):
                return  # it has ended: its pid is compared afterwards
            self.bytes = max(self.bytes, pages * resource.getpagesize())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._done.set()
        self._thread.join()


def all_fit(system: Running, count: int, deadline_s: float) -> None:
    """A burst of requests that would need far more than the replica's share at once."""
    (replica,) = system.replicas()
    assert count * HOLD_MIB > 4 * SHARE_MIB
    with Peak(replica["pid"]) as peak:
        result = load(burst(f"{system.url}/?wait=100&hold={HOLD_MIB}", count, deadline_s=deadline_s))
    tell(f"{count} at once", result)
    section = overload(system)["classes"]["web"]
    print(f"peak {peak.bytes >> 20} of {SHARE_MIB} MiB; {section}", flush=True)
    assert result.ok >= 0.9 * count
    assert peak.bytes <= SHARE_MIB << 20
    (now,) = system.replicas()
    assert (now["pid"], now["restarts"], now["state"]) == (replica["pid"], 0, "ready")
    assert section["limit"] * HOLD_MIB < SHARE_MIB


def test_a_burst_that_holds_memory_is_let_in_as_far_as_it_fits(tmp_path: Path) -> None:
    with system_of(tmp_path, DECLARATION + f'deadline = "60s"\nmemory_max = "{SHARE_MIB}MiB"\n') as system:
        all_fit(system, 2_000, 60)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_ten_thousand_at_once_that_hold_memory(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 11_000 and not os.environ.get("CI"):
        pytest.skip(f"this shell may open {hard} descriptors, the clients alone need 10,000: ulimit -Hn 20000")
    with system_of(tmp_path, DECLARATION + f'deadline = "150s"\nmemory_max = "{SHARE_MIB}MiB"\n') as system:
        all_fit(system, 10_000, 150)
