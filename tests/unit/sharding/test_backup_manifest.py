"""What a backup says of itself is read as it was written, and held against a database, with a reason for a refusal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from headway.errors import AppError, EngineError, MachineError
from headway.model.sharding import ShardMap, ShardServer, TableKey
from headway.sharding.backup.manifest import (
    PLAIN_FILE,
    REFERENCE_FILE,
    BackupFile,
    Manifest,
    lacking,
    misfit,
    read_manifest,
    shard_file,
)
from headway.sharding.backup.programs import without_newer_setting
from headway.sharding.programs import said, undumped, unfilled, way, went_away

FILES = (
    BackupFile(REFERENCE_FILE, 10, "aa", rows=2),
    BackupFile(shard_file(0), 20, "bb", 0, 5, 100),
    BackupFile(shard_file(1), 30, "cc", 1, 7, 200),
)
WHOLE = Manifest(
    id="1",
    headway="0.1.0",
    postgresql="18.4",
    dumped_by=18,
    kind="sharded",
    system="shop",
    database="orders",
    taken_at="2026-01-31T08:00:00.000000Z",
    files=FILES,
    shards=2,
    key_type="int",
    keys={"orders": "customer_id"},
    epoch=3,
)
PLAIN = replace(WHOLE, kind="plain", shards=0, keys={}, files=(BackupFile(PLAIN_FILE, 1, "dd"),))
MAP = ShardMap(
    "orders",
    9,
    ("a", "b"),
    {"a": ShardServer("a", ""), "b": ShardServer("b", "")},
    {"orders": TableKey("customer_id", "int")},
)


def test_it_is_read_as_it_was_written() -> None:
    assert read_manifest(WHOLE.text(), "here") == WHOLE
    assert (WHOLE.bytes, WHOLE.rows, WHOLE.size_bytes) == (60, 14, 300)
    assert PLAIN.rows is None
    assert lacking(WHOLE) == []
    assert lacking(PLAIN) == []
    assert lacking(replace(WHOLE, shards=3)) == ["shard-0002.dump"]
    assert misfit(WHOLE, "orders", MAP) is None
    assert misfit(PLAIN, "main", None) is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": "1"},
        {"format": None},
        {"kind": "other"},
        {"files": 3},
        {"files": [{"name": "../../etc/passwd", "bytes": 1, "sha256": ""}]},
        {"more": 1},
    ],
)
def test_what_is_none(change: dict[str, object]) -> None:
    with pytest.raises(AppError, match="is not the manifest of a backup"):
        read_manifest(json.dumps(json.loads(WHOLE.text()) | change), "here")


@pytest.mark.parametrize(
    ("manifest", "map_", "why"),
    [
        (PLAIN, MAP, "is of a plain database, and orders is sharded"),
        (WHOLE, None, "is of a database of 2 shards, and orders is a plain one"),
        (replace(WHOLE, database="sales"), MAP, "is of database sales"),
        (WHOLE, replace(MAP, owners=("a",) * 4), "the backup has 2 shards, and orders has 4"),
        (replace(WHOLE, key_type="uuid"), MAP, "keys of the backup are of type uuid"),
        (replace(WHOLE, keys={}), MAP, "is spread by no key, and orders by orders.customer_id"),
    ],
)
def test_what_does_not_fit(manifest: Manifest, map_: ShardMap | None, why: str) -> None:
    error = misfit(manifest, "orders", map_)
    assert error is not None
    assert why in error.message
    assert error.hint


def test_a_password_goes_by_the_environment() -> None:
    place, env = way("postgresql://keeper:a-secret@db:5433/shop?sslmode=require", "headway backup")
    assert "a-secret" not in place
    assert env["PGPASSWORD"] == "a-secret"
    assert "sslmode=require" in place


def test_an_older_server_is_not_told_what_it_does_not_know() -> None:
    script = b"--\nSET lock_timeout = 0;\nSET transaction_timeout = 0;\nSET client_encoding = 'UTF8';\n"
    assert without_newer_setting(script) == b"--\nSET lock_timeout = 0;\nSET client_encoding = 'UTF8';\n"


def test_a_server_that_goes_away_is_told_from_one_that_refuses() -> None:
    cut = said(
        'pg_dump: error: Dumping the contents of table "notes" failed: PQgetCopyData() failed.\n'
        "pg_dump: detail: Error message from server: server closed the connection unexpectedly\n"
        "\tThis probably means the server terminated abnormally\n"
        "pg_dump: detail: Command was: COPY orders_0001.notes (entry_id) TO stdout;\n"
    )
    assert "\n" not in cut
    assert "COPY" not in cut
    assert went_away(cut)
    assert "server s1 went away while it was dumped" in undumped("server s1", cut).message
    refused = "pg_dump: error: query failed: ERROR:  permission denied for table notes"
    assert not went_away(refused)
    assert "pg_dump cannot read server s1" in undumped("server s1", refused).message
    missing = 'psql:<stdin>:9: ERROR:  could not open extension control file "x.control": No such file or directory'
    assert isinstance(unfilled("server s1", missing), AppError)


def test_a_full_disk_of_a_server_is_told_by_its_name() -> None:
    full = (
        'psql:<stdin>:40: ERROR:  could not extend file "base/5/1": No space left on device\nHINT:  Check free space.'
    )
    error = unfilled("server s1", said(full))
    assert isinstance(error, MachineError)
    assert "server s1: its disk is full" in error.message
    # Without room for its log a server goes down, and comes back when there is some.
    panic = (
        "PANIC:  could not write to file pg_wal/x: No space left on device\nserver closed the connection unexpectedly"
    )
    assert isinstance(unfilled("server s1", said(panic)), EngineError)
