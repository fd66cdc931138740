"""The process that sends spans can be told to end at any moment of what it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from headway.control import otlp
from headway.process.folders import Folders

# A handler runs in the middle of whatever the thread is at. What it is at here is waiting, again and again.
MANY_ENDS = """
import random, signal, sys
from pathlib import Path
from headway.control import otlp
from headway.process.folders import Folders

otlp._EVERY_S = 0.0
seed = random.Random(1)
for _ in range(300):
    exporter = otlp.Exporter(Folders(Path(sys.argv[1]), Path(sys.argv[1])), "shop", lambda batch: True)
    signal.signal(signal.SIGALRM, lambda number, frame: exporter.end())
    signal.setitimer(signal.ITIMER_REAL, seed.uniform(0.0001, 0.002))
    exporter.run()
print("ended")
"""


def test_it_ends_wherever_the_signal_meets_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY_ENDS, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "ended\n"


def test_what_came_last_is_sent_also_where_the_processor_comes_late(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(otlp, "_LAST_S", -1.0)  # all of its time is over before it runs on
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "access.log"
    log.touch()
    exporter = otlp.Exporter(Folders(tmp_path, tmp_path), "shop", lambda batch: True)
    with log.open("a") as file:
        file.write("one more\n")
    exporter.end()
    exporter.run()
    assert exporter._positions[log].offset == len("one more\n")
