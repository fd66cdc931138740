"""The app's side of a cache by TLS and with a password: it is let in, or says once why not, and goes on without."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cache_apps import Origin, environment_at, product_of, trusted
from cache_place import listener, scripted, valkey
from cache_wire import Wire, wire_to

from headway.caching.asking import Refused, check_server
from headway.caching.client.cache import Cache
from headway.caching.place import CACHES_VARIABLE, place_of_url

SECRET = "not-for-logs"
PATIENCE_S = 3.0  # whoever is not answered for so long says another reason than the one that is looked for


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Wire, Path]]:
    """TLS before a server with a password, and the file of its authority's certificate."""
    folder = tmp_path_factory.mktemp("secrets")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    with valkey(folder, f"requirepass {SECRET}") as port, wire_to(port, context) as wire:
        yield wire, folder / "ca.pem"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


async def goes_on_without(hot: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """Calls are loaded at once, and kept in the process; long enough for several looks at the server."""
    origin = Origin(1)
    product = product_of(hot, origin)
    began = time.monotonic()
    for _ in range(3):
        assert (await product(1))["value"] == 1
    assert time.monotonic() - began < 20
    assert origin.asked == 1
    await hot.invalidate("product:1")
    assert await hot.get("a") is None
    async with asyncio.timeout(60):
        while not warnings(caplog):
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)


def test_it_is_let_in_by_tls_with_a_password(wire: tuple[Wire, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"rediss://:{SECRET}@localhost:{wire[0].port}"
    monkeypatch.setenv(CACHES_VARIABLE, environment_at(url, timeout_s=10.0)[CACHES_VARIABLE])
    monkeypatch.setenv("SSL_CERT_FILE", str(wire[1]))

    async def run() -> None:
        origin = Origin(1)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin), product_of(two, origin)
        await trusted(one, two)
        epochs = [each._parts().near.epoch for each in (one, two)]
        assert (await here(1))["value"] == (await there(1))["value"] == 1
        assert origin.asked == 1
        await asyncio.sleep(1.5)  # more than a beat
        assert (await here(1))["value"] == (await there(1))["value"] == 1
        origin.value = 2
        await one.invalidate("product:1")
        async with asyncio.timeout(60):
            while (await there(1))["value"] != 2:
                await asyncio.sleep(0.001)
        assert (await here(1))["value"] == 2
        assert origin.asked == 2
        assert [each._parts().near.epoch for each in (one, two)] == epochs, "the stream of changes held"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("password", "knows_authority", "says", "hint"),
    [
        ("wrong", True, "does not let us in: WRONGPASS", "look after user and password"),
        ("", True, "does not let us in: NOAUTH", "look after user and password"),
        (SECRET, False, "certificate verify failed", "SSL_CERT_FILE"),
    ],
)
def test_who_is_not_let_in_says_so_once_and_goes_on(
    wire: tuple[Wire, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    password: str,
    knows_authority: bool,
    says: str,
    hint: str,
) -> None:
    who = f":{password}-{SECRET}@" if password == "wrong" else f":{password}@" if password else ""
    url = f"rediss://{who}localhost:{wire[0].port}"
    monkeypatch.setenv(CACHES_VARIABLE, environment_at(url, timeout_s=PATIENCE_S)[CACHES_VARIABLE])
    if knows_authority:
        monkeypatch.setenv("SSL_CERT_FILE", str(wire[1]))
    asyncio.run(goes_on_without(Cache("hot"), caplog))
    (told,) = warnings(caplog)
    assert told.startswith(f"cache hot: rediss://localhost:{wire[0].port} ")
    assert says in told
    assert hint in told
    assert told.endswith("functions are loaded without it")
    assert SECRET not in caplog.text


def test_a_server_that_repeats_what_it_does_not_know_repeats_no_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = f"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' '{SECRET}'\r\n"
    with listener(scripted({b"HELLO": said.encode()})) as port:
        url = f"redis://:{SECRET}@127.0.0.1:{port}"
        with pytest.raises(Refused, match="does not speak RESP3") as refused:
            check_server(place_of_url(url), "hw:t:hot:", 30.0)
        assert SECRET not in refused.value.message
        monkeypatch.setenv(CACHES_VARIABLE, environment_at(url, timeout_s=PATIENCE_S)[CACHES_VARIABLE])
        asyncio.run(goes_on_without(Cache("hot"), caplog))
    (told,) = warnings(caplog)
    assert "does not speak RESP3" in told
    assert SECRET not in caplog.text
