"""What is wrong with the declared databases: their URLs, and what a sharded one needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from headway.declaration.given import check_given
from headway.errors import Problem
from headway.model.declared import Database, Migrations, System
from headway.model.sharding import parse_join

_SQL_NAME = re.compile(r"[a-z_][a-z0-9_$]{0,62}")


def check_databases(system: System, environment: Mapping[str, str], broken: frozenset[str]) -> Iterator[Problem]:
    """Every problem of every database; what is `broken` has been told."""
    for name, database in system.databases.items():
        if name in ("env", "file"):
            yield Problem(
                f"databases.{name}", f"a database cannot be called {name}", f"{{{name}.…}} means something else"
            )
        if name in system.services:  # `uses` and references name both
            hint = f"call it otherwise: [databases.{name}-rows]"
            yield Problem(f"databases.{name}", f"[services.{name}] has the same name", hint)
        yield from _shards(f"databases.{name}", database, broken)
        yield from _source(f"databases.{name}.import_from", database, system)
        if database.url is not None:
            yield from check_given(f"databases.{name}.url", database.url, environment, _url)
        if isinstance(database.servers, dict):
            for server, url in database.servers.items():
                yield from check_given(f"databases.{name}.servers.{server}", url, environment, _url)
            yield from _same_place(f"databases.{name}.servers", database.servers, environment)


def _same_place(path: str, servers: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[Problem]:
    """Two servers that are one: a shard cannot move from a place to itself."""
    seen: dict[tuple[str, int | None, str], str] = {}
    for server, text in servers.items():
        url = re.sub(r"\{env\.(\w+)\}", lambda found: environment.get(found[1], found[0]), text)
        try:
            parts = urlsplit(url)
            place = (parts.hostname or "", parts.port or 5432, parts.path)
        except ValueError:
            continue  # told where it is looked at alone
        if "{" in url or parts.query:
            continue  # it may say another place
        if place in seen:
            hint = "give each a PostgreSQL database of its own: another name at the end of the URL"
            yield Problem(f"{path}.{server}", f"is the same database as {seen[place]}", hint)
        seen.setdefault(place, server)


def _shards(path: str, database: Database, broken: frozenset[str]) -> Iterator[Problem]:
    """What belongs to a sharded database, and what a sharded one needs."""
    if database.shards is None:
        told = "belongs to a sharded database"
        for key in ("keys", "joins", "import_from", "ids", "reference"):
            if getattr(database, key):
                yield Problem(f"{path}.{key}", told, f"add shards = 64 to [{path}], or take it out")
        if database.servers is not None and database.servers != 1:
            yield Problem(f"{path}.servers", told, f"add shards = 64 to [{path}], or give one by url")
        yield from _migrations(f"{path}.migrations", database.migrations, broken)
        return
    if database.url is not None:
        hint = 'write servers = { a = "postgresql://…" }'
        yield Problem(f"{path}.url", "is for a plain database; a sharded one has servers", hint)
    if database.servers == {} and not _has_broken(f"{path}.servers", broken):
        yield Problem(f"{path}.servers", "names no server", "write servers = 2 for embedded ones")
    if not database.keys and not _has_broken(f"{path}.keys", broken):
        hint = 'write keys = { orders = "customer_id" }: a table, and the column that its rows are spread by'
        yield Problem(f"{path}.keys", "a sharded database needs the key of each table", hint)
    for table, column in database.keys.items():
        for what, name in (("table", table), ("column", column)):
            if not _SQL_NAME.fullmatch(name):
                hint = "write it as PostgreSQL stores it, without a schema: small letters, digits and _"
                yield Problem(f"{path}.keys.{table}", f"{name!r} is not the name of a {what}", hint)
    yield from _migrations(f"{path}.migrations", database.migrations, broken)
    yield from _joins(path, database)
    yield from _ids(path, database, broken)
    for index, table in enumerate(database.reference):
        if table in database.keys:
            hint = "a table is spread by a key, or whole on every server"
            yield Problem(f"{path}.reference[{index}]", f"{table} is in keys too", hint)
        elif not _SQL_NAME.fullmatch(table):
            yield Problem(f"{path}.reference[{index}]", f"{table!r} is not the name of a table", "without a schema")


def _migrations(path: str, migrations: Migrations | None, broken: frozenset[str]) -> Iterator[Problem]:
    """One kind of them."""
    if migrations is None or _has_broken(path, broken):
        return
    named = [kind for kind in Migrations.model_fields if getattr(migrations, kind) is not None]
    if not named:
        hint = 'write migrations = { sql = "migrations/" }, { alembic = "alembic.ini" } or { django = "manage.py" }'
        yield Problem(path, "does not say where they are", hint)
    elif len(named) > 1:
        hint = "keep one of them: two would not know of each other's changes"
        yield Problem(path, f"names {' and '.join(named)}", hint)


def _source(path: str, database: Database, system: System) -> Iterator[Problem]:
    """It names a plain database of this system."""
    if database.shards is None or database.import_from is None:
        return
    found = system.databases.get(database.import_from)
    if found is None or found.shards is not None:
        plain = [name for name, one in system.databases.items() if one.shards is None]
        hint = f"there is: {', '.join(plain)}" if plain else "declare it: [databases.main], with its url"
        yield Problem(path, f"no plain database is called {database.import_from}", hint)


def _joins(path: str, database: Database) -> Iterator[Problem]:
    """Each names a parent among the tables with keys, and none comes back to itself."""
    parents: dict[str, str] = {}
    for table, text in database.joins.items():
        where, join = f"{path}.joins.{table}", parse_join(text)
        if join is None:
            hint = 'write it like "order_id = orders.id": its own column, and the parent\'s table and column'
            yield Problem(where, f"{text!r} is no join", hint)
        elif table not in database.keys:
            yield Problem(where, f"{table} is not in keys", f'add {table} = "…" to keys: the column that it is to get')
        elif join.parent not in database.keys:
            yield Problem(where, f"{join.parent} is not in keys", "the parent has to be a table with a key")
        else:
            parents[table] = join.parent
    for table in parents:
        seen, at = {table}, parents[table]
        while at in parents and at not in seen:
            seen.add(at)
            at = parents[at]
        if at == table:
            yield Problem(f"{path}.joins.{table}", "comes back to itself", "one of these tables has the key itself")


def _ids(path: str, database: Database, broken: frozenset[str]) -> Iterator[Problem]:
    """Columns that are filled in with ids."""
    for table, column in database.ids.items():
        where = f"{path}.ids.{table}"
        if table not in database.keys:
            if not _has_broken(f"{path}.keys", broken):
                yield Problem(where, f"{table} is not in keys", "ids are of tables that are spread by a key")
        elif column == database.keys[table]:
            hint = "a key is known before its row: take headway.uuid7() for it, or a number of your own"
            yield Problem(where, f"{column} is the sharding key, by which the shard is found", hint)
        elif not _SQL_NAME.fullmatch(column):
            hint = "write it as PostgreSQL stores it: small letters, digits and _"
            yield Problem(where, f"{column!r} is not the name of a column", hint)


def _has_broken(path: str, broken: frozenset[str]) -> bool:
    """Whether something in a table was refused, so that its absence is no second mistake."""
    return any(each.startswith(f"{path}.") for each in broken)


def _url(path: str, url: str) -> Iterator[Problem]:
    """A PostgreSQL URL. It is never repeated: it holds a password."""
    scheme, separator, _ = url.partition("://")
    driver = scheme.partition("+")
    example = 'write it like "postgresql://user@host:5432/name"'
    if driver[0] in ("postgresql", "postgres") and driver[1]:
        told = f"names the driver {driver[2]}, which is the app's choice, not the database's"
        hint = 'write postgresql://… here, and "postgresql+' + driver[2] + '://{main.user}:{main.password}@…" in `env`'
        yield Problem(path, told, hint)
    elif not separator or scheme not in ("postgresql", "postgres"):
        yield Problem(path, "is not a PostgreSQL URL", example)
    else:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            yield Problem(path, "is not a URL: its host or port cannot be read", example)
            return
        if not parts.path.strip("/"):
            yield Problem(path, "names no database", example)
