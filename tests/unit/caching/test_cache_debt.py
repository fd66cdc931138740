"""What is owed to a server that is away: bounded, in order, of effect each time, and owed again when it is in doubt."""

from __future__ import annotations

import pytest

from headway.caching.client import debt as module
from headway.caching.client.debt import DEBT_MAX, RECENT_S, Debt, Void, command

ALL = (b"SET", b"p:g")


def voids(debt: Debt) -> tuple[Void, ...]:
    return tuple(void for void, _number in debt.owed())


def fill(debt: Debt, count: int) -> None:
    for number in range(count):
        debt.add((b"DEL", b"v:%d" % number))


def test_what_is_owed_comes_in_its_order_until_it_is_paid() -> None:
    debt = Debt(b"p:")
    fill(debt, 3)
    owed = debt.owed()
    assert voids(debt) == tuple((b"DEL", b"v:%d" % number) for number in range(3))
    debt.add((b"DEL", b"later"))
    debt.add((b"DEL", b"v:1"))  # once more, while the first is on its way
    debt.paid(owed)
    assert set(voids(debt)) == {(b"DEL", b"later"), (b"DEL", b"v:1")}


def test_too_much_comes_to_one_that_voids_everything() -> None:
    debt = Debt(b"p:")
    fill(debt, DEBT_MAX)
    assert len(debt.owed()) == DEBT_MAX
    debt.add((b"DEL", b"one more"))
    owed = debt.owed()
    assert voids(debt) == (ALL,)
    debt.add((b"DEL", b"is void with all else"))
    debt.paid(owed)
    assert voids(debt) == (ALL,), "what came after it went out is not void yet"
    debt.paid(debt.owed())
    debt.add((b"DEL", b"after that"))
    assert voids(debt) == ((b"DEL", b"after that"),)


def test_a_generation_is_another_one_each_time() -> None:
    assert command((b"SET", b"p:t:a")) != command((b"SET", b"p:t:a"))
    assert command((b"DEL", b"p:v:a")) == b"*2\r\n$3\r\nDEL\r\n$5\r\np:v:a\r\n"


def test_what_was_told_lately_is_owed_again_when_the_connection_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    at = 100.0
    monkeypatch.setattr(module, "now", lambda: at)
    debt = Debt(b"p:")
    debt.told((b"DEL", b"early"))
    at += RECENT_S + 0.1
    debt.told((b"DEL", b"late"))
    assert debt.owed() == ()
    debt.doubt()
    assert voids(debt) == ((b"DEL", b"late"),)
    debt.paid(debt.owed())
    debt.doubt()
    assert voids(debt) == ((b"DEL", b"late"),), "the server that was told may be gone as well"
    settled = Debt(b"p:", may_move=False)
    settled.told((b"DEL", b"late"))
    settled.doubt()
    assert settled.owed() == ()
