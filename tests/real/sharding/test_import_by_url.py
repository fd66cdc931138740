"""Servers that somebody else runs, no superuser anywhere: the tables' owner, who may replicate and subscribe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from import_place import KEYS, SHARDS, Shop, run_import, servers, shopping
from postgresql_place import wait_for

from headway.errors import AppError
from headway.sharding import settings
from headway.sharding.admin import AdminServer
from headway.sharding.importing.nouns import Source
from headway.sharding.shards import lay_out
from headway.sharding.url import without_password
from headway.sharding.wanted import Layout

SECRET = "a-secret-of-the-keeper"


@dataclass
class Given(Shop):
    """As a `Shop`, in databases of a role `keeper`."""

    def url(self, name: str) -> str:
        return f"postgresql://keeper:{SECRET}@127.0.0.1:{self.servers[name].port}/given"

    def way(self, name: str) -> str:
        return f"{self.url(name)}?options=-csearch_path%3Dpublic"

    def superuser(self, name: str, database: str, *statements: str) -> None:
        server = self.servers[name]
        way = {"host": str(server.socket_folder), "port": server.port, "user": settings.SUPERUSER, "dbname": database}
        with psycopg.connect(**way, autocommit=True) as admin:  # type: ignore[arg-type]
            for statement in statements:
                admin.execute(statement.encode())

    def lay_out_given(self) -> None:
        file = self.place.folder / "shards.sql"
        file.write_text(self.schema)
        wanted = Layout("shop", "orders", SHARDS, KEYS, self.reference, file, self.joins)
        places = [
            AdminServer(
                name, self.way(name), self.way(name), without_password(self.url(name)), "keeper", "keeper", "given",
                is_ours=False,
            )
            for name in ("s1", "s2")
        ]  # fmt: skip
        lay_out(wanted, places)

    schema: str = ""


@pytest.fixture
def place() -> Iterator[Given]:
    from import_place import SHARD

    with servers("main", "s1", "s2") as found:
        given = Given(found.place, found.servers, found.processes, schema=SHARD)
        for name in given.servers:
            more = "REPLICATION" if name == "main" else "IN ROLE pg_create_subscription"
            given.superuser(
                name,
                "postgres",
                f"CREATE ROLE keeper LOGIN PASSWORD '{SECRET}' {more}",
                "CREATE DATABASE given OWNER keeper",
            )
        role = given.servers["main"].role
        given.superuser("main", "given", f'GRANT CONNECT ON DATABASE given TO "{role}"')
        given.create_source()
        given.fill(50)
        given.lay_out_given()
        yield given


def test_an_owner_without_more_rights_imports(place):
    source = Source("main", place.way("main"), place.way("main"))
    import_id, _ = place.importer().begin(source)
    # Customers come as themselves, by the database that is given.
    server = place.servers["main"]
    object.__setattr__(server, "database", "given")
    with shopping(place):
        carrier = run_import(place, import_id, switch_max_s=150.0)
        wait_for(lambda: not carrier.is_alive() or place.importer().now().stage == "verified", "it follows", 100)
        assert carrier.is_alive(), carrier.error
        place.importer().switch()
        carrier.join(170)
        assert carrier.error is None
    place.audit()
    assert place.leftovers(after_switch=True) == []
    assert SECRET not in place.place.log.read_text()


def test_what_it_may_not_is_told(place):
    place.superuser("main", "given", "ALTER ROLE keeper NOREPLICATION", "ALTER TABLE customers OWNER TO CURRENT_USER")
    place.superuser("s2", "given", "REVOKE pg_create_subscription FROM keeper")
    with pytest.raises(AppError) as error:
        place.importer().begin(place.source)
    told = error.value.message
    assert "role keeper may not replicate from the source" in told
    assert "role keeper does not own table customers" in told
    assert "the login on server s2 may not create a subscription" in told


def test_a_server_that_cannot_reach_the_source_tells_no_password(place):
    wrong = place.way("main").replace(SECRET, "another-secret")
    import_id, _ = place.importer().begin(place.source)
    with pytest.raises(AppError, match="cannot subscribe to the source"):
        place.importer().resume(import_id, Source("main", place.way("main"), wrong))
    assert place.leftovers(after_switch=False) == []
    assert "another-secret" not in place.place.log.read_text()
