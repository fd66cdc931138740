"""What Headway costs when nothing happens, and how long it takes until something can."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.crowd import rss_bytes
from bench.edge_cost import cpu_s
from bench.stacks import HERE
from headway.process.folders import folders_for

RUNS = 5
REST_S = float(os.environ.get("BENCH_REST_SECONDS", "30"))
_HEADWAY = (sys.executable, "-m", "headway.cli.main")


@contextmanager
def _system() -> Iterator[tuple[Path, float]]:
    """A detached system with two trivial replicas: its folder, and the seconds until `up` said that it is ready."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(HERE / "trivial.py", folder)
        (folder / "headway.toml").write_text(
            '[edge]\nbind = ["127.0.0.1:18999"]\n[services.web]\napp = "trivial:app"\nreplicas = 2\n'
        )
        began_s = time.monotonic()
        subprocess.run([*_HEADWAY, "up", "--detach"], cwd=folder, check=True, capture_output=True, timeout=60)
        took_s = time.monotonic() - began_s
        try:
            yield folder, took_s
        finally:
            subprocess.run([*_HEADWAY, "down"], cwd=folder, check=True, capture_output=True, timeout=60)


def run() -> str:
    """The table in Markdown."""
    starts = []
    for _ in range(RUNS):
        with _system() as (_folder, took_s):
            starts.append(took_s)
    with _system() as (folder, _took_s):
        time.sleep(3)
        record = json.loads((folders_for(folder / ".headway").run / "processes.json").read_text())
        pids = {entry["name"]: entry["pid"] for entry in record["processes"]}
        parts = {"supervisor": record["supervisor"]["pid"], "controller": pids["controller"], "HAProxy": pids["edge"]}
        before = {name: cpu_s((pid,)) for name, pid in parts.items()}
        time.sleep(REST_S)
        shares = {name: (cpu_s((pid,)) - before[name]) / REST_S * 100 for name, pid in parts.items()}
        memory = {name: rss_bytes((pid,)) / 1e6 for name, pid in parts.items()}
    lines = ["| | resident memory | share of one core at rest |", "|---|---|---|"]
    lines += [f"| {name} | {memory[name]:.0f} MB | {shares[name]:.2f} % |" for name in parts]
    lines.append(f"| together | {sum(memory.values()):.0f} MB | {sum(shares.values()):.2f} % |")
    lines += ["", f"From `headway up --detach` to ready, median of {RUNS}: {statistics.median(starts):.2f} s."]
    return "\n".join(lines)
