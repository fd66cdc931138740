"""A place to run the `headway` command in, and what it may meet there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_place import COMMAND_S, GOOD, Place
from harness import free_port

from headway.process.folders import remove_run


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path, free_port())
    found.write({"good.py": GOOD})
    yield found
    tmp_path.chmod(0o755)
    with contextlib.suppress(subprocess.TimeoutExpired):
        if found.folders.run.exists():  # a test that failed may have left a system behind
            found.headway("down")
            remove_run(found.folders)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter without any package."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=COMMAND_S)
    return str(folder / "bin" / "python")
