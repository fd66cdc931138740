"""A running Headway with a sharded database, in a folder of its own that goes with it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.stacks import free_port

HEADWAY = (sys.executable, "-m", "headway.cli.main")


@contextmanager
def system(files: Mapping[str, str]) -> Iterator[Path]:
    """The folder of a system that is up; `files`: what lies in it, by name, with $PORT for a free port."""
    with tempfile.TemporaryDirectory(prefix="headway-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for path, text in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text.replace("$PORT", str(free_port())))
        command(folder, "up", "--detach")
        try:
            yield folder
        finally:
            command(folder, "down")


def command(folder: Path, *arguments: str, timeout_s: float = 300) -> str:
    """What a command of Headway printed; RuntimeError when it failed."""
    done = subprocess.run([*HEADWAY, *arguments], cwd=folder, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        raise RuntimeError(f"headway {' '.join(arguments)}: {done.stderr}")
    return done.stdout
