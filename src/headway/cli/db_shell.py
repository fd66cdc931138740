"""`headway db shell`: psql where a key's rows are, as the app sees them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from headway.cli.start import System
from headway.errors import EngineError, HeadwayError
from headway.model.sharding import DATABASES_VARIABLE, KeyKind, schema_name
from headway.process.replace import replace_process
from headway.sharding.client.place import REFERENCE_SCHEMA
from headway.sharding.client.told import Told, told
from headway.sharding.engine import find_postgresql
from headway.sharding.keys import WrongKey, shard_of
from headway.sharding.url import for_libpq, parse_url

_LOOK_TIMEOUT_S = 60.0


def shell(
    system: System, name: str, *, key: str | None, shard: int | None, server: str | None, sql: tuple[str, ...]
) -> int:
    """Becomes psql; returns only when it cannot be started."""
    access: dict[str, Any] = system.client.ask("GET", "/databases")["access"]
    if name not in access:
        raise HeadwayError(f"there is no database {name!r}", hint=f"There is: {', '.join(access) or 'none'}.")
    way = told(name, {DATABASES_VARIABLE: json.dumps(access)})
    asked = [
        option for option, value in (("--key", key), ("--shard", shard), ("--server", server)) if value is not None
    ]
    if len(asked) > 1:
        raise HeadwayError(f"{' and '.join(asked)} say the same thing", hint=f"Give {asked[0]} alone.")
    if not way.is_sharded:
        if asked:
            raise HeadwayError(f"database {name} has no shards", hint=f"headway db shell {name}")
        return _psql(way.url, "", name, sql)
    query = urlencode({"database": name})
    found = system.client.ask("GET", f"/db?{query}", timeout_s=_LOOK_TIMEOUT_S)["databases"][name]
    url, path, where = _place(way, found, key, shard, server)
    return _psql(url, path, where, sql)


def _place(
    way: Told, found: dict[str, Any], key: str | None, shard: int | None, server: str | None
) -> tuple[str, str, str]:
    """URL, search_path and a word for what was asked for."""
    servers = {one["name"]: one for one in found["servers"]}
    if server is not None:
        if server not in servers:
            raise HeadwayError(f"there is no server {server!r}", hint=f"There is: {', '.join(servers)}.")
        return way.url_of(server, servers[server]["url"]), REFERENCE_SCHEMA, f"server {server}"
    count = int(found["shards"])
    if key is not None:
        kind: KeyKind = next((each["type"] for each in found["keys"].values()), "int")
        shard = _shard_of(key, count, kind)
    if shard is None:
        raise HeadwayError(
            f"database {way.name} has {count} shards", hint="Which one? --key KEY, --shard N, or --server NAME."
        )
    owner = next((one for one in servers.values() if shard in one["shards"]), None)
    if owner is None:
        raise HeadwayError(f"there is no shard {shard}", hint=f"Shards are 0 to {count - 1}.")
    path = f"{schema_name(way.name, shard)},{REFERENCE_SCHEMA}"
    return way.url_of(owner["name"], owner["url"]), path, f"shard {shard} on {owner['name']}"


def _shard_of(key: str, shards: int, kind: KeyKind) -> int:
    try:
        return shard_of(int(key) if kind == "int" else key, shards, kind)
    except (ValueError, WrongKey) as error:
        what = {"int": "a whole number of 64 bits", "uuid": "a UUID", "text": "a text"}[kind]
        raise HeadwayError(
            f"--key: {key!r} is not {what}", hint=f"Keys of this database are of type {kind}: headway db status"
        ) from error


def _psql(url: str, path: str, where: str, sql: tuple[str, ...]) -> int:
    """The password goes by the environment: arguments are for everybody to see."""
    try:
        program = find_postgresql().program("psql")
    except EngineError:
        program = ""
    if not program or not os.access(program, os.X_OK):
        program = shutil.which("psql") or ""
    if not program:
        raise EngineError("psql was not found on this machine", hint="apt install postgresql-client")
    parsed = parse_url(url)
    env = {**os.environ, "PGPASSWORD": parsed.password, "PGAPPNAME": "headway db shell"}
    if path:
        env["PGOPTIONS"] = f"-c search_path={path}"
    if sys.stderr.isatty():
        print(f"{where}, as {parsed.user}", file=sys.stderr)
    commands = [word for each in sql for word in ("-c", each)]
    alone = ["-X", "-v", "ON_ERROR_STOP=1"] if sql else []  # a person's own settings are for a person
    return replace_process([program, *alone, *commands, for_libpq(parsed)], folder=str(Path.cwd()), env=env)
