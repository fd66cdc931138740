"""The shard map as a configuration of PgDog, a proxy for those clients that cannot take Headway's library. Pure.

PgDog routes by schema: https://docs.pgdog.dev/configuration/pgdog.toml/sharded_schemas. A server of ours is a shard of
PgDog's, a shard of ours is a schema that lies on it. The schema of a key is for the client to name.
"""

from __future__ import annotations

from collections.abc import Sequence

from headway.model.sharding import ShardMap, schema_name
from headway.sharding.layout import REFERENCE_SCHEMA
from headway.sharding.url import parse_url


def pgdog(map_: ShardMap) -> str:
    """The parts of `pgdog.toml` that say where the shards are. Logins are left to `users.toml`."""
    servers = list(map_.servers)
    lines = [
        f"# Where the {map_.shards} shards of {map_.database} are, as of epoch {map_.epoch}.",
        f"# After a move: headway db status {map_.database} --pgdog, then RELOAD in PgDog's admin database.",
    ]
    for number, name in enumerate(servers):
        url = parse_url(map_.servers[name].url)
        lines += _entry(
            "databases",
            [
                ("name", map_.database),
                ("host", url.host),
                ("port", url.port),
                ("database_name", url.name),
                ("shard", number),
            ],
            comment=name,
        )
    for shard, owner in enumerate(map_.owners):
        name = schema_name(map_.database, shard)
        lines += _entry(
            "sharded_schemas", [("database", map_.database), ("name", name), ("shard", servers.index(owner))]
        )
    lines += _entry("sharded_schemas", [("database", map_.database), ("name", REFERENCE_SCHEMA), ("all", True)])
    # Everything else, the catalog above all, is on the first server.
    lines += _entry("sharded_schemas", [("database", map_.database), ("shard", 0)])
    return "\n".join(lines) + "\n"


def _entry(table: str, values: Sequence[tuple[str, str | int | bool]], comment: str = "") -> list[str]:
    return [
        "",
        f"[[{table}]]" + (f"  # {comment}" if comment else ""),
        *(f"{name} = {_toml(value)}" for name, value in values),
    ]


def _toml(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
