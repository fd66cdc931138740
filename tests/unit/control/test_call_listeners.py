"""Which descriptor is which: the edge gets its listening sockets in one order, and its file names them by number."""

from __future__ import annotations

from headway.model.declared import System
from headway.process.spec import FIRST_LISTENER_FD
from headway.runtimes.local.edge_plan import addresses, call_listeners, listeners

SERVICES = {"web": {"app": "a:b", "routes": ["/"], "uses": ["stock"]}, "stock": {"app": "a:b"}}
PLACES = {"stock": ("/run/s/stock.sock", "127.0.0.1:40001"), "prices": ("/run/s/prices.sock",)}


def test_those_for_clients_come_first() -> None:
    system = System.model_validate(
        {"services": SERVICES, "edge": {"bind": ["127.0.0.1:8000", "[::1]:8000"]}},
    )
    outside, ways = listeners(system), call_listeners(system, PLACES)
    in_order = [*outside, *ways["stock"], *ways["prices"]]
    assert [listener.fd for listener in in_order] == [FIRST_LISTENER_FD + number for number in range(5)]
    assert [listener.address for listener in in_order] == [*addresses(system), *PLACES["stock"], *PLACES["prices"]]


def test_without_a_public_service_there_are_those_for_calls_alone() -> None:
    private = {name: {**service, "routes": []} for name, service in SERVICES.items()}
    system = System.model_validate({"services": private})
    assert (listeners(system), addresses(system)) == ((), ())
    assert [listener.fd for listener in call_listeners(system, PLACES)["stock"]] == [
        FIRST_LISTENER_FD,
        FIRST_LISTENER_FD + 1,
    ]
