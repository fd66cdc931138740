"""Two real servers for a module, and on them an empty database for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from backup_place import ACCOUNTS, Bank, another, two_engines
from client_place import CONNECT_S
from empty_servers import empty_servers
from plain_place import new_plain, new_site
from postgresql_place import Place, in_memory

from headway.sharding.admin import AdminServer
from headway.sharding.postgresql import Server


@pytest.fixture(autouse=True, scope="module")
def patient() -> Iterator[None]:
    """An app is told after two seconds that a server does not answer, and who administers it after five; a machine that
    is busy with other tests as well may take longer for a connection."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("client.connections", "client.sync", "client.sqlalchemy_pool", "admin", "move.sessions"):
            patch.setattr(f"headway.sharding.{module}._CONNECT_S", CONNECT_S)
        patch.setattr("headway.sharding.client.connections._CLEAN_S", CONNECT_S)
        yield


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Place, dict[str, Server]]]:
    """Two servers by name, for systems side by side."""
    with two_engines() as found:
        yield found


@pytest.fixture
def bank(running: tuple[Place, dict[str, Server]]) -> Bank:
    """A system that is empty."""
    return another(running)


@pytest.fixture(scope="module")
def full(running: tuple[Place, dict[str, Server]]) -> Bank:
    """A system with accounts, for tests that change nothing in it."""
    found = another(running)
    found.open_accounts(ACCOUNTS)
    return found


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[Server, ...]]:
    with in_memory() as place:
        yield tuple(place.start(f"orders.s{number}")[0] for number in (1, 2))


@pytest.fixture
def servers(engines: tuple[Server, ...], request: pytest.FixtureRequest) -> tuple[AdminServer, ...]:
    """Two, each with an empty database of this test's own."""
    return empty_servers(engines, f"d{abs(hash(request.node.name)) % 10**9}")


@pytest.fixture
def main(engines: tuple[Server, ...], request: pytest.FixtureRequest) -> AdminServer:
    """A plain database of this test's own, which is empty."""
    return new_plain(engines[0], f"p{abs(hash(request.node.name)) % 10**9}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_site(tmp_path_factory.mktemp("site"))
