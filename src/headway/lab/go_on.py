"""The watchdog of a hang: tells processes to go on when the one who stopped them is gone, or later than it promised.

A process of its own in a session of its own, for what stops others may be killed by SIGKILL. It reads `PID TICKS` lines
from its standard input, each written before that process is stopped, until the input ends or its time is over.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from headway.process.linux import send_signal

_CHUNK_BYTES = 4096


def main(limit_s: float) -> None:
    """Wait for the end of the input, `limit_s` at most; then continue all that was named."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _leave)
    until_s, told = time.monotonic() + limit_s, bytearray()
    try:
        while (left_s := until_s - time.monotonic()) > 0:
            if select.select([0], [], [], left_s)[0]:
                chunk = os.read(0, _CHUNK_BYTES)
                if not chunk:
                    break
                told += chunk
    finally:
        for line in told.splitlines():
            pid, ticks = line.split()
            send_signal(int(pid), int(ticks), signal.SIGCONT)


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(1)


if __name__ == "__main__":
    main(float(sys.argv[1]))
