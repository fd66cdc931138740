"""One server for a test, of which the app is told as Headway would."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_apps import Server, environment

from headway.caching.client.tracking import Tracking
from headway.caching.place import CACHES_VARIABLE


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(tmp_path)
    monkeypatch.setenv(CACHES_VARIABLE, environment(made)[CACHES_VARIABLE])
    yield made
    made.end()


@pytest.fixture(autouse=True)
def _nobody_looks_for_a_server_that_has_gone() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if isinstance(thread, Tracking):
            thread.close()
            thread.join(2)
