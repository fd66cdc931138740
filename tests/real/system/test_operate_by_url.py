"""Servers of one's own are added by a URL that is written nowhere, and taken out again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Running
from postgresql_place import Place
from shards_by_url import APP, DECLARATION, SCHEMA, SECRET, as_superuser, url, urls

from headway.sharding.postgresql import Server

_REPLICATES = ("ALTER ROLE keeper REPLICATION", "GRANT pg_create_subscription TO keeper")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    folder = Path(tempfile.mkdtemp(prefix="headway-pg-")).resolve()
    folder.chmod(0o755)  # the engine's user must be able to enter it
    place = Place(folder, folder / "shared")
    try:
        found = {name: place.start(name)[0] for name in ("a", "b", "c")}
        for name, server in found.items():
            create = f"CREATE ROLE keeper LOGIN CREATEROLE PASSWORD '{SECRET}'"
            as_superuser(server, create, "CREATE DATABASE shop OWNER keeper", *(_REPLICATES if name != "c" else ()))
        yield found
    finally:
        place.clear()


@pytest.fixture(scope="module")
def system(servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("by-url")
    (folder / "here.py").write_text(APP)
    (folder / "schema.sql").write_text(SCHEMA)
    env = urls({name: servers[name] for name in ("a", "b")})
    with Running(folder, DECLARATION, detached=True, env=env) as running:
        yield running


def names(system: Running) -> list[str]:
    return [server["name"] for server in system.status()["databases"]["orders"]["servers"]]


def test_a_server_joins_by_a_url_and_leaves(system, servers):
    add = ("db", "add-server", "orders", "c", "{env.C_URL}")
    known = dict(system.env)
    lacking = system.run("db", "add-server", "orders")
    assert "a name and a URL are needed" in lacking.stderr
    for value, told in (
        (url(servers["b"]), "it is the same database as server b"),
        (url(servers["c"]), "it does not allow what shards need: moves: replicate from here"),
        (url(servers["c"]).replace("/shop", "/nix"), "nix"),
        ("nonsense", "databases.orders.servers.c"),
    ):
        system.env = {**known, "C_URL": value}
        refused = system.run(*add)
        assert refused.returncode == 1, refused.stdout
        assert told in refused.stderr
        assert "hint:" in refused.stderr
        assert SECRET not in refused.stderr
        assert names(system) == ["a", "b"]
    as_superuser(servers["c"], *_REPLICATES)
    system.env = {**known, "C_URL": url(servers["c"])}
    told = system.ok(*add, timeout_s=120)
    assert 'hint: in servers of [databases.orders] add c = "{env.C_URL}"' in told
    assert SECRET not in told
    assert names(system) == ["a", "b", "c"]
    assert SECRET not in (system.state / "servers.json").read_text()
    system.ok("db", "move", "orders", "0", "--to", "c", timeout_s=60)
    # Started anew, it needs the same variable as if it were declared.
    system.ok("down")
    system.env = known
    forgotten = system.run("up", "--detach")
    assert forgotten.returncode == 1
    assert "databases.orders.servers.c, which was added by hand" in forgotten.stderr
    system.env = {**known, "C_URL": url(servers["c"])}
    system.up("--detach")
    assert names(system) == ["a", "b", "c"]
    done = json.loads(system.ok("db", "remove-server", "orders", "c", "--json", timeout_s=120).splitlines()[-1])
    assert [move["shard"] for move in done["moves"]] == [0]
    assert (done["servers"], done["data_folder"], done["write"]) == (["a", "b"], None, "")
    assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1])["complete"]
