"""What is said of a server that is not used: where, why and what to do, once, and no password."""

from __future__ import annotations

import logging

import pytest

from headway.caching.client import outage as module
from headway.caching.client.outage import AGAIN_S, Outage
from headway.caching.place import place_of_url
from headway.caching.refusals import Refusal, unanswered, unwelcome
from headway.caching.resp import is_copy, who

PLACE = place_of_url("redis://shop:secret@db.example:6380")


def test_words_name_the_place_without_its_password() -> None:
    assert unanswered(PLACE, TimeoutError()).whole == "redis://shop@db.example:6380 does not answer: it is silent"
    said = "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'shop' 'secret'"
    told = unwelcome(PLACE, said)
    assert "secret" not in told.whole
    assert "does not speak RESP3" in told.text
    assert "Redis from 6.2" in told.hint
    assert unwelcome(PLACE, "LOADING it reads its file").passes
    assert not unwelcome(PLACE, "WRONGPASS no").passes


def test_the_same_is_said_once_however_often_it_comes_and_goes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at = 1000.0
    monkeypatch.setattr(module, "now", lambda: at)
    caplog.set_level(logging.INFO, "headway.caching")
    outage = Outage("hot")
    for _ in range(100):
        at += 1
        outage.begins(Refusal("a"))
    outage.ends()
    outage.ends()
    at += AGAIN_S / 2
    outage.begins(Refusal("a"))
    outage.begins(Refusal("b", "do this"))
    outage.ends()
    at += AGAIN_S
    outage.begins(Refusal("a"))
    assert [each.getMessage().removeprefix("cache hot: ") for each in caplog.records] == [
        "a; functions are loaded without it",
        "the server is there again",
        "b; do this; functions are loaded without it",
        "the server is there again",
        "a; functions are loaded without it",
    ]


def test_a_server_is_known_by_its_run() -> None:
    assert who(b"# Server\r\nvalkey_version:9.1\r\nrun_id:abc\r\n") == who("run_id:abc") == "abc"
    assert who(None) == who(b"") == who(ValueError("NOPERM")) == ""
    assert is_copy({b"role": b"replica"})
    assert not is_copy({b"role": b"master"})
    assert not is_copy(b"OK")
