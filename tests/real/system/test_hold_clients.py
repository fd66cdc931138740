"""Clients that are slow on purpose or by their line hold connections, not the app: the others do not notice."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import Running, wait_for
from holding import DECLARATION, POOL, POOL_PER_S, SLO_S, offer, overload, system_of

SILENT, DRIBBLING = 300, 100
HEAD = b"POST /slow?wait=5 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


@contextmanager
def slow_clients(system: Running) -> Iterator[list[socket.socket]]:
    """Connections that say nothing, and bodies that come a byte a second, from entering the block until leaving it."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(_connected(system)) for _ in range(SILENT)]
        dribbling = [stack.enter_context(_connected(system)) for _ in range(DRIBBLING)]
        for client in dribbling:
            client.sendall(HEAD)
        over = threading.Event()

        def dribble() -> None:
            while not over.wait(1.0):
                for client in dribbling:
                    with contextlib.suppress(OSError):
                        client.sendall(b"x")

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            yield [*silent, *dribbling]
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


def test_slow_clients_do_not_take_the_places_of_others(tmp_path: Path) -> None:
    with system_of(tmp_path, DECLARATION + 'slo = "250ms"\n') as system:
        rate = 0.5 * POOL_PER_S
        alone = offer(system, rate, 3, slo_s=SLO_S)
        with slow_clients(system) as clients:
            began_s = time.monotonic()
            among = offer(system, rate, 5, slo_s=SLO_S)
            held = len(clients) - _ended(clients)
            print(f"{held} of {len(clients)} still held after {time.monotonic() - began_s:.0f} s")
            assert held >= len(clients) / 2, "there were no slow clients"
            assert not overload(system)["overloaded"]
        assert among.ok / among.offered >= 0.9 * alone.ok / alone.offered
        assert among.failed == 0
        # And with the queue in use: what is served of more than can be.
        most = offer(system, 3 * POOL_PER_S, 3, POOL)
        with slow_clients(system):
            full = offer(system, 3 * POOL_PER_S, 3, POOL)
        assert full.ok >= 0.8 * most.ok


def test_silent_clients_are_hung_up_on(tmp_path: Path) -> None:
    declaration = DECLARATION.replace("[services", 'header_timeout = "1s"\n[services')
    with system_of(tmp_path, declaration) as system, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(_connected(system)) for _ in range(50)]
        wait_for(lambda: _ended(clients) == len(clients), 15, "all silent clients are hung up on", every_s=0.1)
