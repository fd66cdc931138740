"""One server for a test, of which the app is told as Headway would."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cache_apps import Server, environment_at

from headway.caching.client import leases
from headway.caching.client.parts import Parts
from headway.caching.place import CACHES_VARIABLE

# A server that is not given a core for a tenth of a second, the usual time-out, would pass for one that hangs, and a
# process that stands still for two loses its leases.
_PATIENCE_S, _LEASE_S = 10.0, 60.0


@pytest.fixture
def timeout_s() -> float:
    """How long a server may be silent; tests of just that say another one (`SOON_SILENT`)."""
    return _PATIENCE_S


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: float) -> Iterator[Server]:
    made = Server(tmp_path)
    monkeypatch.setattr(leases, "LEASE_S", _LEASE_S)
    monkeypatch.setenv(CACHES_VARIABLE, environment_at(made.url, timeout_s=timeout_s)[CACHES_VARIABLE])
    yield made
    made.end()


@pytest.fixture(autouse=True)
def _nobody_looks_for_a_server_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And finds one of a later test at its port, to which it would tell what is void."""
    made: list[Parts] = []
    begin = Parts.__init__

    def noted(self: Parts, *arguments: Any) -> None:
        begin(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Parts, "__init__", noted)
    yield
    for parts in made:
        with contextlib.suppress(RuntimeError):  # it was let go before
            parts.end()
