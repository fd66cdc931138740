"""What a backup says of itself, in `manifest.json`, and whether it fits a database. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from headway.errors import AppError
from headway.model.sharding import ShardMap

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_MAX_BYTES = 16 * 1024 * 1024
REFERENCE_FILE = "reference.dump"
PLAIN_FILE = "database.dump"
PARTIAL = ".partial"

Kind = Literal["sharded", "plain"]


@dataclass(frozen=True, slots=True)
class BackupFile:
    """One dump: of a shard, of the reference tables, or of a plain database."""

    name: str
    bytes: int
    sha256: str
    shard: int | None = None
    rows: int | None = None  # counted in the snapshot
    size_bytes: int = 0  # in the server, with indexes


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole backup."""

    id: str
    headway: str
    postgresql: str  # of the server
    dumped_by: int  # pg_dump's major version: a pg_restore as new reads it
    kind: Kind
    system: str
    database: str
    taken_at: str  # in UTC
    files: tuple[BackupFile, ...]
    shards: int = 0
    key_type: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)  # column by table
    epoch: int = 0
    lock_held_ms: float = 0.0  # so long no transaction over several shards could be decided
    apart_ms: float = 0.0  # the snapshots of all servers were taken within
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        """Of all its dumps."""
        return sum(file.bytes for file in self.files)

    @property
    def rows(self) -> int | None:
        """Of all shards, where they were counted."""
        counted = [file.rows for file in self.files if file.rows is not None]
        return sum(counted) if counted else None

    @property
    def size_bytes(self) -> int:
        """About what it takes in the servers."""
        return sum(file.size_bytes for file in self.files)

    def text(self) -> str:
        """As it is written."""
        return json.dumps(asdict(self), indent=1) + "\n"


def shard_file(shard: int) -> str:
    """The name of a shard's dump."""
    return f"shard-{shard:04d}.dump"


def read_manifest(text: str, where: str) -> Manifest:
    """The manifest of a text. AppError when it is none, or of a later version."""
    try:
        found: dict[str, Any] = json.loads(text)
        version = found["format"]
        if isinstance(version, int) and version > FORMAT:
            raise AppError(
                f"{where} was written by Headway {found.get('headway', '?')}, in a format ({version}) that is newer",
                hint="Restore it with that version or a later one.",
            )
        files = tuple(BackupFile(**one) for one in found.pop("files"))
        manifest = Manifest(**{**found, "files": files})
        wrong = [one.name for one in files if "/" in one.name or one.name.startswith(".")]
        if wrong or version != FORMAT or manifest.kind not in ("sharded", "plain"):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise AppError(
            f"{where} is not the manifest of a backup", hint="Name the folder that headway db backup has written."
        ) from None
    return manifest


def lacking(manifest: Manifest) -> list[str]:
    """Dumps that a whole backup has and that this one does not name."""
    names = {file.name for file in manifest.files}
    if manifest.kind == "plain":
        wanted = [PLAIN_FILE]
    else:
        wanted = [REFERENCE_FILE, *(shard_file(shard) for shard in range(manifest.shards))]
    return [name for name in wanted if name not in names]


def misfit(manifest: Manifest, database: str, map_: ShardMap | None) -> AppError | None:
    """Why a backup cannot go into a database; None: it can. `map_` is None for a plain one."""
    is_plain = map_ is None
    if is_plain != (manifest.kind == "plain"):
        what = "a plain database" if manifest.kind == "plain" else f"a database of {manifest.shards} shards"
        return AppError(
            f"the backup is of {what}, and {database} is {'a plain one' if is_plain else 'sharded'}",
            hint="Restore it into a plain database, then bring that into shards: headway db import."
            if manifest.kind == "plain"
            else "Declare a database with as many shards, and restore into that.",
        )
    if map_ is None:
        return None
    if manifest.database != database:
        return AppError(
            f"the backup is of database {manifest.database}: its shards are named so, and those of {database} are not",
            hint=f"Declare it as [databases.{manifest.database}].",
        )
    if manifest.shards != map_.shards:
        return AppError(
            f"the backup has {manifest.shards} shards, and {database} has {map_.shards}",
            hint=f"Declare shards = {manifest.shards} in a system of its own, and restore there; headway db split "
            "doubles them afterwards.",
        )
    if manifest.key_type != map_.kind:
        return AppError(
            f"the keys of the backup are of type {manifest.key_type}, and those of {database} of type {map_.kind}",
            hint="Declare the database with the schema that it had.",
        )
    theirs, ours = dict(manifest.keys), {table: key.column for table, key in map_.keys.items()}
    if theirs != ours:
        return AppError(
            f"the backup is spread by {_told(theirs)}, and {database} by {_told(ours)}",
            hint="Declare the same keys and the schema that goes with them.",
        )
    return None


def _told(keys: Mapping[str, str]) -> str:
    return ", ".join(f"{table}.{column}" for table, column in sorted(keys.items())) or "no key"


def document(manifest: Manifest, folder: str) -> dict[str, Any]:
    """A backup for programs."""
    return {
        "folder": folder,
        "database": manifest.database,
        "shards": manifest.shards,
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "files": len(manifest.files),
        "epoch": manifest.epoch,
        "taken_at": manifest.taken_at,
        "lock_held_ms": manifest.lock_held_ms,
        "apart_ms": manifest.apart_ms,
    }


def by_shard(files: Sequence[BackupFile]) -> dict[int, BackupFile]:
    """The dumps of shards."""
    return {file.shard: file for file in files if file.shard is not None}
