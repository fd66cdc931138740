"""A process that takes permits of a shared folder, one after the other in threads, and writes what it saw."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from headway.sharding.client.permits import Permits


def acquire(permits: Permits, timeout_s: float = 60.0) -> int:
    permit = permits.take()
    if permit >= 0:
        return permit
    woken = threading.Event()
    waiter = permits.wait(woken.set)
    woken.wait(timeout_s)
    return permits.leave(waiter)


def main(folder: str, most: int, threads: int, seconds: float, hold_s: float) -> None:
    permits = Permits("s1", most, Path(folder))
    print("up", flush=True)
    sys.stdin.readline()  # all begin at once, however long a busy machine takes to start each
    until_s = time.monotonic() + seconds
    counts = [0] * threads
    longest_s = [0.0] * threads

    def work(number: int) -> None:
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            permit = acquire(permits)
            if permit < 0:
                continue
            longest_s[number] = max(longest_s[number], time.monotonic() - began_s)
            # What only the holder may do: nobody else may have this file meanwhile.
            claim = Path(folder, f"claim-{permit}")
            claim.touch(exist_ok=False)
            time.sleep(hold_s)
            claim.unlink()
            permits.give_back(permit)
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(sum(counts), max(longest_s), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
