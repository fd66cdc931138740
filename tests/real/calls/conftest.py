"""A service that is called, of which the test is told as Headway would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from call_place import Deed, Leaf, Start

from headway.calls.client.service import Service
from headway.model.calls import SERVICES_VARIABLE


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts it; gives it, and what calls it."""
    # On a busy machine five failures on purpose take more than a second, and look like a service that is away.
    monkeypatch.setattr("headway.calls.breaker.SILENT_S", 600.0)
    leaves: list[Leaf] = []
    services: list[Service] = []

    def begin(do: Deed) -> tuple[Leaf, Service]:
        leaf = Leaf(tmp_path, do)
        leaves.append(leaf)
        monkeypatch.setenv(SERVICES_VARIABLE, json.dumps({"inventory": {"socket": leaf.path, "deadline_s": 20.0}}))
        monkeypatch.setenv("HEADWAY_SERVICE", "web")
        services.append(Service("inventory"))
        return leaf, services[-1]

    yield begin
    for leaf in leaves:
        leaf.end()
    for service in services:  # other than those of an app, it ends before its loops
        service.let_go()
