"""The server of an app's tests comes up whatever happens to the port that it has chosen."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headway.declaration.load import load
from headway.sharding.postgresql import Server, is_ready
from headway.testing.databases import Databases, prepare

DECLARATION = """
[system]
name = "shop"
[services.web]
app = "shop:app"
routes = ["/"]
uses = ["main"]
[databases.main]
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the engine's user can enter."""
    found = Path(tempfile.mkdtemp(prefix="headway-pg-")).resolve()
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


def test_a_port_that_another_run_takes_in_between_is_left_to_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "headway.toml").write_text(DECLARATION)
    (tmp_path / "shop.py").write_text("async def app(scope, receive, send): ...")
    chosen: list[int] = []
    with contextlib.ExitStack() as stack:

        def taken(*arguments: Any, **named: Any) -> Server:
            server = prepare(*arguments, **named)
            chosen.append(server.port)
            if len(chosen) == 1:
                stack.enter_context(socket.create_server(("127.0.0.1", server.port)))
            return server

        monkeypatch.setattr(sys.modules[Databases.__module__], "prepare", taken)
        found = Databases(load(None, cwd=tmp_path, environment={}))
        try:
            found.start(folder)
            assert len(set(chosen)) == 2
            assert f":{chosen[1]}/" in found.urls["main"]
            assert is_ready(found._known, timeout_s=30)
        finally:
            found.stop()
