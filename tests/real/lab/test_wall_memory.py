"""The memory that walls tell of is what is left to us, not to the machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

LIMIT_BYTES = 200 << 20
PROGRAM = """
import sys
from pathlib import Path
from headway.lab.wall_look import look_at_declared
from headway.model.declared import System

held = bytearray(50 << 20)
facts = look_at_declared(System(), Path(sys.argv[1]))
print(facts.memory_bytes, facts.memory_free_bytes)
"""


@contextlib.contextmanager
def memory_group() -> Iterator[Path]:
    """A control group of our own with a limit; skips where this user may make none."""
    path = "/"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, own = line.split(":", 2)
        if "memory" in names.split(","):
            path, root, file = own, Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
            break
        if names == "":
            path, root, file = own, Path("/sys/fs/cgroup"), "memory.max"
    group = root / path.lstrip("/") / f"headway-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if not (group / file).exists():
            pytest.skip("memory is not controlled below our own group")
        (group / file).write_text(str(LIMIT_BYTES))
        yield group
    finally:
        group.rmdir()


def test_what_a_control_group_leaves_is_what_there_is(tmp_path: Path) -> None:
    with memory_group() as group:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    total, free = map(int, done.stdout.split())
    assert total == LIMIT_BYTES
    assert free < LIMIT_BYTES - (50 << 20), "what is held already is not free"
