"""A change of the source is followed, whatever stands in the way of it for a moment."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from headway.control import apply
from headway.control.journal import Journal
from headway.errors import HeadwayError


def test_a_reload_that_finds_the_controller_busy_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(apply, "_RELOAD_AGAIN_S", 0.0)
    busy, reloaded = [1, 1], []

    def call(function):
        if busy:
            busy.pop()
            raise HeadwayError("the controller is busy: nothing was changed")
        function()

    journal = Journal(tmp_path / "journal.jsonl")
    controller = SimpleNamespace(call=call, journal=journal, reload_source=reloaded.append)
    apply._reload(controller, "shop.py changed", threading.Event())
    assert reloaded == ["shop.py changed"]
    assert [entry["what"] for entry in journal.recent] == ["reload failed", "reload failed"]
