"""Where pages are run: a folder that every user may pass through, as a project's folder usually is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder. pytest's own are closed to the user that engines run as, so their data would lie elsewhere."""
    with tempfile.TemporaryDirectory(prefix="headway-docs-") as top:
        Path(top).chmod(0o711)
        folder = Path(top) / "site"
        folder.mkdir()
        yield folder
