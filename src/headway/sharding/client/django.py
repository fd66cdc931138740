"""A sharded database in Django: its models and queries as they are, in blocks that say which shard is meant.

In the settings:

    DATABASES = {..., "orders": {"ENGINE": "headway.sharding.client.django_backend", "NAME": "orders"}}
    DATABASE_ROUTERS = ["headway.sharding.client.django.ShardRouter"]

`NAME` is the name in `headway.toml`; addresses and passwords come from Headway.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import psycopg
from django.apps import apps
from django.core.management import call_command
from django.db import Error, connections, transaction

from headway.errors import Conflict, DatabaseError, NotRunning, ShardMoved
from headway.sharding.client.database import Database, database
from headway.sharding.client.django_backend.base import BLOCKS, Block, DatabaseWrapper, NoShard, of_driver
from headway.sharding.client.place import AGAIN, AGAIN_MAX, FENCE_WAIT_S, pause_s

__all__ = ["NoShard", "ShardRouter", "migrate_shard", "run_sharded", "shard"]

Result = TypeVar("Result")
_ENGINE = "headway.sharding.client.django_backend"


@contextlib.contextmanager
def shard(alias: str, key: object = None) -> Iterator[None]:
    """`with shard("orders", customer_id):` queries of that alias go to the key's shard, in this thread or task.

    From its first query to its end the block counts among those at work on its server: keep it short, and wait for
    nothing else in it. Blocks may be nested: one of the same shard is part of the outer one, one of another shard
    takes a second place, and is refused while the outer one is in a transaction. Raises as `database(name).sync.at`
    does; errors of queries are Django's.
    """
    wrapper = _wrapper(alias)
    shards = wrapper.shards
    number = shards.database.shard_of(key)
    outer = BLOCKS.get().get(alias)
    if outer is not None and outer.shard == number:
        try:
            yield
        except Error as error:
            if not _is_in_transaction(wrapper):
                outer.leave(error)  # its next query looks for the shard anew
            raise
        return
    if outer is not None and _is_in_transaction(wrapper):
        raise Conflict(
            f"a transaction on shard {outer.shard} of database {alias!r} is open: shard {number} is not a part of it",
            hint="End it before; over shards there is `async with database(name).transaction(a, b)`.",
        )
    with _in_block(alias, Block(shards, key, number)):
        yield


def run_sharded(alias: str, key: object, function: Callable[..., Result], *arguments: Any) -> Result:
    """Run `function(*arguments)` in a transaction on the key's shard, and give what it gives.

    It is run again as a whole while its shard moves, and when the database gave another transaction precedence: it must
    do nothing outside the database that cannot be done twice.
    """
    until_s = time.monotonic() + max(_wrapper(alias).shards.database._places.told.wait_s, FENCE_WAIT_S)
    for attempt in range(AGAIN_MAX):
        try:
            with shard(alias, key), transaction.atomic(using=alias, durable=True):
                return function(*arguments)
        except ShardMoved as error:
            again: BaseException = error
        except Error as error:
            if getattr(of_driver(error), "sqlstate", None) not in AGAIN:
                raise
            again = error
        if time.monotonic() >= until_s:
            raise again
        time.sleep(pause_s(attempt))
    raise again


def migrate_shard(alias: str, url: str, schema: str, **options: Any) -> None:
    """Django's `migrate` on one shard: `schema` at the server of `url`, by the role of that URL."""
    wrapper = _wrapper(alias)
    parameters = wrapper.get_connection_params()
    parameters["options"] = f"{parameters.get('options', '')} -c search_path={schema}".strip()
    with (
        psycopg.connect(url, autocommit=True, **parameters) as connection,
        _in_block(alias, _Migration(connection)),
    ):
        call_command("migrate", database=alias, interactive=False, **options)


class ShardRouter:
    """Sends the models of a sharded database's tables to its alias, and keeps all others away from there."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """The alias of a model's table; None: another router may know."""
        return _alias_of(model)

    db_for_write = db_for_read

    def allow_relation(self, first: Any, second: Any, **hints: Any) -> bool | None:
        """Within a sharded database only; nothing of it refers to another one's rows."""
        one, other = _alias_of(first), _alias_of(second)
        if one is None and other is None:
            return None
        return one == other

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: Any) -> bool | None:
        """A table is made where it belongs."""
        model = hints.get("model")
        if model is None:
            if model_name is None:
                return _belongs_app(db, app_label)
            model = apps.get_model(app_label, model_name)
        return _belongs(db, _alias_of(model, of_those_told=True))


class _Migration(Block):
    """A block whose connection is given."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.shard = -1
        self._connection = connection

    @property
    def connection(self) -> psycopg.Connection[Any] | None:
        return None if self._connection.closed else self._connection

    def forget(self) -> None:
        pass

    def connect(self) -> psycopg.Connection[Any]:
        return self._connection

    def leave(self, error: BaseException | None) -> None:
        pass


@contextlib.contextmanager
def _in_block(alias: str, block: Block) -> Iterator[None]:
    token = BLOCKS.set({**BLOCKS.get(), alias: block})
    try:
        yield
    except BaseException as error:
        block.leave(error)
        raise
    else:
        block.leave(None)
    finally:
        BLOCKS.reset(token)


def _wrapper(alias: str) -> DatabaseWrapper:
    found = connections[alias]
    if not isinstance(found, DatabaseWrapper):
        raise DatabaseError(
            f"database {alias!r} is not Headway's, by the settings", hint=f'Its ENGINE would be "{_ENGINE}".'
        )
    return found


def _is_in_transaction(wrapper: DatabaseWrapper) -> bool:
    return bool(wrapper.in_atomic_block or (wrapper.connection is not None and not wrapper.autocommit))


def _belongs(db: str, alias: str | None) -> bool | None:
    """Whether what belongs to `alias` (None: to no sharded one) is made in `db`."""
    if alias is None:
        return False if any(db == sharded for sharded, _ in _sharded(of_those_told=True)) else None
    return db == alias


def _belongs_app(db: str, label: str) -> bool | None:
    """The same for an operation that names no model, RunPython and RunSQL: where all models of its app are. Of an app
    whose models are in several places, in each of them."""
    try:
        models = list(apps.get_app_config(label).get_models(include_auto_created=True))
    except LookupError:
        return None
    places = {_alias_of(model, of_those_told=True) for model in models}
    return _belongs(db, places.pop()) if len(places) == 1 else None


def _sharded(*, of_those_told: bool = False) -> Iterator[tuple[str, Database]]:
    """The aliases of sharded databases; all that the settings name, or those that this process is told of."""
    for alias, settings in connections.settings.items():
        if settings["ENGINE"] == _ENGINE:
            try:
                found = database(cast(str, settings["NAME"]))
            except NotRunning:
                if of_those_told:
                    continue
                raise
            if found._places.watch is not None:
                yield alias, found


def _alias_of(model: Any, *, of_those_told: bool = False) -> str | None:
    table = model._meta.db_table
    for alias, found in _sharded(of_those_told=of_those_told):
        told = found._places.told
        if table in (told.tables or found.map.keys) or table in told.reference:
            return alias
    return None
