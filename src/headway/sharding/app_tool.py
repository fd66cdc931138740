"""Runs a migration tool of the app's over shards: in the app's own Python, a process a server, all servers at once.

A plain database is one server with one shard, which is all of it.

The tools differ in what they are asked and in what an error of theirs means; how they are run, heard and given up is
alike, and is here.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

import headway.worker
from headway.errors import HeadwayError
from headway.model.sharding import LEDGER_TABLE, ShardMap, TableKey, schema_name
from headway.process.run import Completed, run
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, on_each, watched
from headway.sharding.alone import THERE_ALREADY
from headway.sharding.migrating import Say, or_stamp
from headway.sharding.targets import Targets

_BOOT = str(Path(headway.worker.__file__).with_name("boot.py"))
_LOOK_TIMEOUT_S = 120.0
_UPGRADE_TIMEOUT_S = 86_400.0  # an ALTER TABLE may rewrite much; it holds nothing up but other migrations
_LINES_MAX = 12

Failed = Mapping[str, Any]
Finish = Callable[[AdminServer, int], list[str]]


@dataclass(frozen=True, slots=True)
class AppTool:
    """A migration tool of an app's: its file, and in which Python, with which environment it runs.

    As declared, `env` has references in it; `uses` names the databases that the app is told of, and relative paths are
    looked for in `root`.
    """

    file: str
    python: str
    folder: str  # of the service: what it imports is found there
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    uses: tuple[str, ...] = ()
    root: str = "/"
    after: tuple[str, ...] = ()  # plain databases that the app may ask for when it is imported

    @property
    def place(self) -> str:
        """Where it is run."""
        return str(Path(self.file).parent)


@dataclass(frozen=True, slots=True)
class Words:
    """What a tool is called, and what its errors mean."""

    name: str
    module: str  # of `headway.worker`
    cannot_begin: Callable[[Failed], HeadwayError]
    refused: Callable[[str, Failed], HeadwayError]  # the first argument says which shard


def look(tool: AppTool, words: Words, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """What it tells of itself. The error of `words.cannot_begin` where it cannot."""
    told: list[dict[str, Any]] = []
    done = _ask(tool, words, asked, _LOOK_TIMEOUT_S, told.append)
    answer: dict[str, Any] = told[-1] if told else {"failed": _ended(words, done)}
    if failed := answer.get("failed"):
        raise words.cannot_begin(failed)
    return answer


def upgrade_shards(
    database: str,
    tool: AppTool,
    words: Words,
    servers: Sequence[AdminServer],
    shards: Mapping[str, Sequence[int]],
    *,
    finish: Finish,
    say: Say,
    plain: Targets | None = None,
    stamp: str | None = None,
) -> None:
    """Bring these shards (by server) to the newest state. All are tried; the first that refused is the error.

    `finish`: statements that are run before every commit in a shard; `plain`: given where they are a plain database;
    `stamp`: only record that they have everything up to this.
    """
    total = sum(map(len, shards.values()))
    done = 0
    failures: dict[int, HeadwayError] = {}
    lock = threading.Lock()

    def where(server: AdminServer, shard: int) -> str:
        return plain.where(shard) if plain else f"shard {shard} on server {server.name}"

    def work(server: AdminServer, _connection: Connection) -> None:
        left = list(shards.get(server.name, ()))

        def heard(answer: dict[str, Any]) -> None:
            nonlocal done
            with lock:
                if "shard" not in answer:
                    failures[left[0]] = words.cannot_begin(answer["failed"])
                    left.clear()
                    return
                left.remove(answer["shard"])
                if failed := answer["failed"]:
                    if not failures:
                        for line in failed["lines"]:
                            say(line)
                    failures[answer["shard"]] = words.refused(where(server, answer["shard"]), failed)
                    return
                done += 1
                if done == total or not done % 16:
                    say(f"{words.name}: done" if plain else f"{words.name}: {done} of {total} shards")

        asked: dict[str, Any] = {"do": "upgrade", "stamp": stamp}
        asked |= {"shards": [{**at(database, one), "finish": finish(server, one)} for one in left]}
        asked |= on(database, server, plain)
        ended = _ask(tool, words, asked, _UPGRADE_TIMEOUT_S, heard)
        with lock:
            if left:
                failures[left[0]] = words.refused(where(server, left[0]), _ended(words, ended))

    on_each([server for server in servers if shards.get(server.name)], work)
    if failures:
        first = failures[min(failures)]
        others = f" ({len(failures)} shards refused it, {done} have it)" if len(failures) > 1 else f" ({done} have it)"
        others = plain.others(len(failures), done) if plain else others
        raise type(first)(f"{first.message}{others}", hint=f"{first.hint} Then run the same command again.".strip())


def refused_hint(database: str, failed: Failed, name: str, hint: str) -> str:
    """The hint for a migration that a database has refused, for one reason more."""
    return or_stamp(hint, database, name) if name and failed.get("code") in THERE_ALREADY else hint


def on(database: str, server: AdminServer, plain: Targets | None = None) -> dict[str, Any]:
    """What a process is told of its server; of a plain database also by what it is known."""
    place = _place(server)
    holder = plain.holder if plain else None
    told = {"database": database, "place": place, "behind": layout.REFERENCE_SCHEMA, "ledger": LEDGER_TABLE}
    return {**told, "holder": holder, "watched": watched("session")}


def at(database: str, shard: int) -> dict[str, Any]:
    """And of a shard."""
    return {"shard": shard, "schema": schema_name(database, shard)}


def keys_to_come(map_: ShardMap, declared: Mapping[str, str]) -> dict[str, TableKey]:
    """The keys of all declared tables: those that migrations are only about to make have a key of the others' kind."""
    new = {table: TableKey(column, map_.kind) for table, column in declared.items()}
    return {**new, **map_.keys}


def tables_named(name: str, connection: Connection, schemas: Sequence[str]) -> list[str]:
    """Those of these schemas that have a table of this name."""
    rows = connection.execute(
        "SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE relname = %s AND nspname = ANY(%s)",
        (name, list(schemas)),
    ).fetchall()
    return [str(row[0]) for row in rows]


def _ask(
    tool: AppTool, words: Words, asked: Mapping[str, Any], timeout_s: float, heard: Callable[[dict[str, Any]], None]
) -> Completed:
    """Have a process do it in the app's Python."""
    given = {**asked, "file": tool.file, "folders": [tool.place, tool.folder], "parent": os.getpid()}
    env = {**os.environ, **dict(tool.env)}
    env["PATH"] = f"{Path(tool.python).parent}{os.pathsep}{env.get('PATH', '')}"
    return run(
        [tool.python, _BOOT, words.module],
        stdin=json.dumps(given),
        env=env,
        cwd=tool.place,
        timeout_s=timeout_s,
        heard=lambda line: heard(json.loads(line)),
    )


def _place(server: AdminServer) -> dict[str, Any]:
    """Where the administrator gets to a server, in parts."""
    parts = {name: str(value) for name, value in conninfo_to_dict(server.admin).items() if value is not None}
    return {
        "host": parts.pop("host", ""),
        "port": parts.pop("port", ""),
        "user": parts.pop("user", ""),
        "password": parts.pop("password", ""),
        "name": parts.pop("dbname", ""),
        "options": parts,
    }


def _ended(words: Words, done: Completed) -> dict[str, Any]:
    """The failure of a process that did not tell one."""
    how = f"by signal {-done.status}" if done.status < 0 else f"with status {done.status}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return {
        "step": "",
        "message": f"{words.name}'s process ended {how}" + (f": {lines[-1]}" if lines else ""),
        "lines": lines[-_LINES_MAX:],
        "kind": "ended",
    }
