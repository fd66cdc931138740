"""When a silence is too long, and when it was the watcher that was away."""

from __future__ import annotations

from headway.process.silence import Silence


def test_it_is_too_long_when_nothing_was_told_for_the_limit() -> None:
    silence = Silence(30.0)
    silence.end(100.0)
    assert silence.next_s == 130.0
    assert not silence.is_too_long(129.9)
    assert silence.is_too_long(130.0)
    silence.end(130.0)
    assert not silence.is_too_long(131.0)


def test_a_watcher_that_was_away_begins_anew() -> None:
    silence = Silence(30.0)
    silence.end(100.0)
    assert not silence.is_too_long(1000.0)
    assert silence.next_s == 1030.0
    assert silence.is_too_long(1030.5)
