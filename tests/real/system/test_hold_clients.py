"""Clients that are slow on purpose or by their line hold connections, not the app: the others do not notice."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Running, wait_for
from holding import DECLARATION, POOL_PER_S, offer, overload, system_of

pytestmark = pytest.mark.alone

HEAD = b"POST /slow?wait=5 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


@contextmanager
def slow_clients(system: Running, silent: int, dribbling: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing, and bodies that come a byte a second, from entering the block until leaving it."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(_connected(system)) for _ in range(silent + dribbling)]
        for client in clients[silent:]:
            client.sendall(HEAD)
        over = threading.Event()

        def dribble() -> None:
            while not over.wait(1.0):
                for client in clients[silent:]:
                    with contextlib.suppress(OSError):
                        client.sendall(b"x")

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            yield clients
        finally:
            over.set()
            thread.join()


def _connected(system: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", system.port), timeout=10)


def _ended(clients: list[socket.socket]) -> int:
    """How many the edge has answered or hung up on."""
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        return len(selector.select(0))


def goodput_among(system: Running, silent: int, dribbling: int, share: float, rounds: int) -> None:
    """What is served among slow clients, below the capacity and of three times what can be.

    The two sides of the second comparison take turns, after a limit was found: neither pays for the finding alone.
    """
    rate, much = 0.5 * POOL_PER_S, 3 * POOL_PER_S
    alone = offer(system, rate, 2)
    with slow_clients(system, silent, dribbling) as clients:
        among = offer(system, rate, 4)
        held = len(clients) - _ended(clients)
        assert held >= len(clients) / 2, f"there were no slow clients: {held} of {len(clients)} held"
        assert not overload(system)["overloaded"]
    assert among.ok / among.offered >= share * alone.ok / alone.offered
    assert among.failed == 0
    offer(system, much, 3)
    without = with_them = 0
    for _ in range(rounds):
        without += offer(system, much, 4).ok
        with slow_clients(system, silent, dribbling) as clients:
            with_them += offer(system, much, 4).ok
            assert _ended(clients) < len(clients) / 2, "there were no slow clients"
    print(f"goodput among slow clients {with_them / without:.1%} of that without")
    assert with_them >= share * without


def test_slow_clients_do_not_take_the_places_of_others(tmp_path: Path) -> None:
    with system_of(tmp_path, DECLARATION + 'slo = "250ms"\n') as system:
        goodput_among(system, 300, 100, share=0.9, rounds=1)


@pytest.mark.long
@pytest.mark.parametrize(("silent", "dribbling"), [(10_000, 0), (0, 2_000)], ids=["silent", "dribbling"])
def test_ten_thousand_slow_clients_cost_no_goodput(tmp_path: Path, silent: int, dribbling: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 13_000 and not os.environ.get("CI"):
        pytest.skip(f"this shell may open {hard} descriptors, the clients alone need 10,000: ulimit -Hn 20000")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with system_of(tmp_path, DECLARATION + 'slo = "250ms"\n') as system:
        goodput_among(system, silent, dribbling, share=0.95, rounds=3)


def test_silent_clients_are_hung_up_on(tmp_path: Path) -> None:
    declaration = DECLARATION.replace("[services", 'header_timeout = "1s"\n[services')
    with system_of(tmp_path, declaration) as system, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(_connected(system)) for _ in range(50)]
        wait_for(lambda: _ended(clients) == len(clients), 60, "all silent clients are hung up on", every_s=0.1)
