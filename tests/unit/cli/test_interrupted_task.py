"""Ctrl-C at a long `headway db …` ends the command and not the work, and the user is told so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from headway.cli.db import follow


def test_an_interrupt_tells_that_the_work_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter([{"task": 1}, {"lines": ["shard 0: schema"], "ended": False}])

    def ask(*_asked: object, **_more: object) -> dict[str, Any]:
        answer = next(answers, None)
        if answer is None:
            raise KeyboardInterrupt
        return answer

    system: Any = SimpleNamespace(client=SimpleNamespace(ask=ask))
    with pytest.raises(KeyboardInterrupt):
        follow(system, "move", {"database": "orders"}, quiet=False)
    told = capsys.readouterr()
    assert told.out == "shard 0: schema\n"
    assert told.err == "\nonly this command ends: what it began, move, goes on in the controller\n"
