"""Where the run folder lies: HAProxy is told of the sockets in it in commands, whose words end at a blank."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from headway.process.folders import folders_for


@pytest.mark.parametrize(("name", "is_taken"), [("run", True), ("r n", False), ("rün", False), ("r" * 40, False)])
def test_a_runtime_folder_whose_name_is_no_plain_word_is_passed_over(
    name: str, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        runtime = Path(short) / name
        runtime.mkdir()
        found = folders_for(Path("/srv/shop/.headway"), {"XDG_RUNTIME_DIR": str(runtime)})
    assert found.run.parent == (runtime if is_taken else Path("/tmp"))
