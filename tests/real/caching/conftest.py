"""One server for a test, of which the app is told as Headway would."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_apps import Server, environment_at

from headway.caching.client.tracking import Tracking
from headway.caching.place import CACHES_VARIABLE

# A server that is not given a core for a tenth of a second, the usual time-out, would pass for one that hangs. Tests of
# just that say the usual one in their module.
_PATIENCE_S = 2.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Server]:
    made = Server(tmp_path)
    timeout_s = getattr(request.module, "TIMEOUT_S", _PATIENCE_S)
    monkeypatch.setenv(CACHES_VARIABLE, environment_at(made.url, timeout_s=timeout_s)[CACHES_VARIABLE])
    yield made
    made.end()


@pytest.fixture(autouse=True)
def _nobody_looks_for_a_server_that_has_gone() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if isinstance(thread, Tracking):
            thread.close()
            thread.join(2)
