"""A database that is not wanted any more while it is prepared is not started, and does not say that it is ready."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from headway.process.folders import Folders
from headway.runtimes.local import databases
from headway.runtimes.local.databases import Database, WantedDatabase


def test_nothing_is_started_after_the_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[str] = []
    started: list[object] = []

    def prepare(*_arguments, **_options):
        database.stop()  # as another thread does, while this one makes the data folder
        return SimpleNamespace(running_pid=None)

    monkeypatch.setattr(databases, "prepare", prepare)
    monkeypatch.setattr(Database, "_spec", lambda _self, _server: "how it starts")
    database = Database(
        WantedDatabase("main", "shop", None, None, 2**30),
        Folders(tmp_path, tmp_path),
        supervisor=None,
        spawn=started.append,
        tell=lambda _about, what, *_more: told.append(what),
        is_alive=lambda _name: None,
    )
    database.start()
    database._thread.join(30)
    assert not database._thread.is_alive()
    assert (started, told, database.state) == ([], [], "stopping")
