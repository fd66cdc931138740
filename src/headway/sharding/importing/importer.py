"""Carries one import from its recorded stage to its end, through restarts of everybody and of itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import psycopg

from headway.errors import AppError, Conflict
from headway.model.sharding import LEDGER_TABLE, Join, ShardMap, schema_name
from headway.sharding.carrying import CopyLost, GivenUp, NotYet, away, become_carrier, carry, reached
from headway.sharding.catalog import read_map
from headway.sharding.estimates import Weight, weights
from headway.sharding.importing import statements
from headway.sharding.importing.compare import compare_all
from headway.sharding.importing.fill import fill
from headway.sharding.importing.finish import clean, take_back, undo
from headway.sharding.importing.link import link, prepare, wait_for_copy
from headway.sharding.importing.look import look_at_server, look_at_source, source_schema, tables_of
from headway.sharding.importing.nouns import (
    ENDED,
    FoundTable,
    Import,
    ImportBounds,
    ImportProgress,
    ImportServer,
    Plan,
    Source,
    Stage,
    space_of,
)
from headway.sharding.importing.plan import Declared, Objection, make_plan, notes, of_servers, orphaned
from headway.sharding.importing.record import (
    insert_import,
    open_import,
    read_import,
    try_lock,
    want_abort,
    want_switch,
)
from headway.sharding.importing.switch import follow, open_shards, resume_switching
from headway.sharding.importing.work import CATALOG, SOURCE, Connections, Work, ask
from headway.sharding.layout import REFERENCE_SCHEMA, is_version_table
from headway.sharding.move.record import open_moves
from headway.sharding.move.sessions import Connection, scalar

_NAME = "headway import"
_AGAIN_S = 0.2
_BEGUN_AGAIN_MAX = 3
_MARK = "headway: being imported"


def _copy(work: Work) -> None:
    try:
        wait_for_copy(work)
    except CopyLost as lost:
        again = int(work.record.number("begun_again")) + 1
        if again > _BEGUN_AGAIN_MAX:
            raise GivenUp(str(lost), "Import again when that server stays up.") from lost
        work.tell(f"beginning again: {lost}", force=True)
        take_back(work)
        work.advance("begun", begun_again=again, prepared=False, subids={})


def _compare(work: Work) -> None:
    try:
        compare_all(work)
    except NotYet as error:  # the stage is what it was: again
        work.tell(str(error), force=True)
        work.wait(_AGAIN_S)


# Stage -> the step that follows it.
STEPS: Mapping[Stage, Callable[[Work], None]] = {
    "begun": prepare,
    "prepared": link,
    "replicating": _copy,
    "copied": fill,
    "filled": _compare,
    "verified": follow,
    "switching": resume_switching,
    "switched": open_shards,
    "opened": clean,
    "aborting": undo,
}


@dataclass(frozen=True, slots=True)
class Checked:
    """What is to be imported."""

    plan: Plan
    rows: int  # as estimated
    left_alone: tuple[str, ...]  # tables of the source that are not declared
    notes: tuple[str, ...] = ()


class Importer:
    """Imports into one sharded database; every method blocks its thread."""

    def __init__(
        self,
        database: str,
        catalog: str,
        servers: Sequence[ImportServer],
        *,
        reference: tuple[str, ...],
        joins: Mapping[str, Join],
        progress: Callable[[ImportProgress], None],
        stop: threading.Event,
        bounds: ImportBounds | None = None,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._servers = {server.name: server for server in servers}
        self._reference = reference
        self._joins = joins
        self._progress = progress
        self._stop = stop
        self._bounds = bounds or ImportBounds()

    def begin(self, source: Source) -> tuple[int, Checked]:
        """Check everything that can be checked before, and record the import; `resume` carries it out.

        Conflict when something is under way already; AppError with every reason against it.
        """
        with reached("the catalog", self._catalog, _NAME) as catalog:
            if (running := open_import(catalog)) is not None:
                raise Conflict(
                    f"an import from {running.source} into {self._database} is under way (stage {running.stage})",
                    hint="It goes on by itself: headway db status. --switch ends it, --abort undoes it.",
                )
            if moving := open_moves(catalog):
                raise Conflict(f"shard {moving[0].shard} is moving", hint="Import when it has ended: headway db status")
            checked, reasons = self._check(source, read_map(catalog), first=True)
            if reasons:
                told = "; ".join(reason.message for reason in reasons)
                hints = list(dict.fromkeys(reason.hint for reason in reasons))
                raise AppError(f"{source.shown} cannot be imported into {self._database}: {told}", hint=" ".join(hints))
            import_id = insert_import(catalog, source.shown, schema=checked.plan.schema, rows_total=checked.rows)
            return import_id, checked

    def resume(self, import_id: int, source: Source | None) -> Import:
        """Carry the import to its end, or as far as it goes until `stop` is set.

        AppError when it was given up and everything is as before; EngineError when a server stays away: come again.
        """
        found = self._carry(import_id, source)
        if found.stage == "aborted":
            raise AppError(
                f"the import from {found.source} into {self._database} was given up: {found.abort_wanted}",
                hint=str(found.facts.get("hint", "")),
            )
        return found

    def abort(self) -> Import:
        """Have the import undone by whoever works on it. Conflict past the commit point."""
        with reached("the catalog", self._catalog, _NAME) as catalog:
            return want_abort(catalog, self._open(catalog).id, "it was aborted by hand")

    def switch(self) -> Import:
        """Have the shards take over, by whoever works on it, as soon as they can."""
        with reached("the catalog", self._catalog, _NAME) as catalog:
            return want_switch(catalog, self._open(catalog).id)

    def read(self, import_id: int) -> Import:
        """The record as it is now."""
        with reached("the catalog", self._catalog, _NAME) as catalog:
            return read_import(catalog, import_id)

    def now(self) -> Import | None:
        """The import that is under way."""
        with reached("the catalog", self._catalog, _NAME) as catalog:
            return open_import(catalog)

    def _open(self, catalog: Connection) -> Import:
        found = open_import(catalog)
        if found is None:
            raise AppError(
                f"nothing is being imported into {self._database}", hint=f"headway db import {self._database} --from …"
            )
        return found

    # -- what is to be done -------------------------------------------------------------------------------------------

    def _check(self, source: Source, map_: ShardMap, *, first: bool) -> tuple[Checked, list[Objection]]:
        declared = Declared(self._database, map_.shards, map_.keys, self._reference, self._joins)
        if lost := sorted(set(map_.owners) - set(self._servers)):
            raise AppError(f"server {lost[0]} holds shards and is not declared", hint="Declare it again.")
        with reached("the source", source.admin, _NAME) as connection:
            schema = source_schema(connection, declared.tables, _search_path(source))
            found, strangers = tables_of(connection, schema)
            facts = look_at_source(connection)
            reasons: list[Objection] = []
            by_name = {table.name: table for table in found}
            shard = self._shard_tables(map_)
            plan, of_plan = make_plan(declared, schema, by_name, shard, schema_name(self._database, 0))
            weighed = weights(connection, [schema]) if first else {}
            if first:
                space = space_of(self._database)
                servers = []
                for name, server in self._servers.items():
                    with reached(f"server {name}", server.admin, _NAME) as there:
                        servers.append(look_at_server(there, name, schema, declared.tables, space, _MARK))
                        reasons += self._occupied(there, map_, plan, name)
                reasons = [*of_servers(facts, servers, schema), *of_plan, *reasons]
                for name in sorted(strangers & {table.name for table in plan.tables}):
                    told = f"role {facts.role} does not own table {name} of the source, and cannot publish it"
                    reasons.append(Objection(told, "Give the URL of the tables' owner."))
                if not reasons:
                    reasons += _orphans(connection, plan)
        wanted = {table.name for table in plan.tables}
        rows = sum(_rows(table, schema, weighed) for table in found if table.name in wanted)
        # Shards have their own of those that say what was migrated.
        known = {*wanted, LEDGER_TABLE}
        known |= {
            table.name for table in found if is_version_table(table.name, [(c.name, c.type) for c in table.columns])
        }
        alone = tuple(
            table.name
            for table in found
            if table.name not in known and table.kind in ("r", "p", "i") and not table.partition_of
        )
        return Checked(plan, rows, alone, notes(facts)), reasons

    def _shard_tables(self, map_: ShardMap) -> dict[str, FoundTable]:
        server = map_.owners[0]
        with reached(f"server {server}", self._servers[server].admin, _NAME) as connection:
            shared, _ = tables_of(connection, REFERENCE_SCHEMA)
            own, _ = tables_of(connection, schema_name(self._database, 0))
        return {table.name: table for table in (*shared, *own)}

    def _occupied(self, connection: Connection, map_: ShardMap, plan: Plan, server: str) -> list[Objection]:
        """Rows that are in the shards already."""
        for shard in map_.on(server):
            for table in plan.tables:
                where = statements.place(schema_name(self._database, shard), table.name)
                if not table.is_reference and ask(connection, f"SELECT EXISTS (SELECT FROM {where})"):
                    told = f"table {table.name} holds rows in shard {shard} already"
                    return [Objection(told, "Import into shards that are empty: delete these rows, or keep them.")]
        return []

    def _carry(self, import_id: int, source: Source | None) -> Import:
        with reached("the catalog", self._catalog, _NAME) as catalog:
            record = read_import(catalog, import_id)
            catalog_id = str(scalar(catalog, "SELECT id FROM headway.catalog"))
            map_ = read_map(catalog)
        if record.stage in ENDED:
            return record
        if source is None:
            raise AppError(
                f"the import from {record.source} waits: how to get to the source is not known any more",
                hint=f"Give it again: headway db import {self._database} --from postgresql://…",
            )
        checked, _ = self._check(source, map_, first=False)
        ways = {CATALOG: self._catalog, SOURCE: source.admin}
        ways |= {name: server.admin for name, server in self._servers.items()}
        work = Work(
            Connections(ways, f"headway import {catalog_id[:8]} {import_id}"),
            catalog_id,
            record,
            map_,
            source,
            self._servers,
            checked.plan,
            self._bounds,
            self._progress,
            self._stop,
        )
        try:
            carry(
                _Carried(work),
                self._stop,
                away_max_s=self._bounds.away_max_s,
                stuck_max_s=self._bounds.stuck_max_s,
                again_hint="Import again when all servers answer.",
            )
        finally:
            work.connections.close()
        return work.record


def _orphans(connection: Connection, plan: Plan) -> list[Objection]:
    reasons = []
    for table in plan.tables:
        needless = table.is_reference or (table.join is None and table.key_column.is_required)
        if not needless and ask(connection, statements.orphans(plan, table, plan.schema)):
            reasons.append(orphaned(table))
    return reasons


def _search_path(source: Source) -> list[str]:
    """Where the login of the source looks for tables, as long as nobody tells it otherwise."""
    try:
        with psycopg.connect(source.admin, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute("SELECT current_schemas(false)::text[]").fetchone()
    except psycopg.Error as error:
        raise away("the source", error) from None
    return list(cast(list[str], row[0])) if row else []


def _rows(table: FoundTable, schema: str, weighed: Mapping[tuple[str, str], Weight]) -> int:
    """How many a table has, with its partitions."""
    parts = [(one.name, one.rows) for one in table.partitions] or [(table.name, table.rows)]
    return sum(weighed[schema, name].rows if (schema, name) in weighed else rows for name, rows in parts)


class _Carried:
    """An import, for the loop that carries it."""

    what = "the import"
    needed = "the source, all servers and the catalog"

    def __init__(self, work: Work) -> None:
        self.work = work

    @property
    def record(self) -> Import:
        return self.work.record

    def attempt(self, given_up: GivenUp | None, passed: Callable[[], None]) -> None:
        work = self.work
        become_carrier(lambda: try_lock(work.catalog), "this import", work.stop)
        if given_up:
            want_abort(work.catalog, work.record.id, given_up.message, given_up.hint)
        work.record = read_import(work.catalog, work.record.id)
        if work.record.has_ended:
            return
        if work.record.abort_wanted and work.record.can_be_undone:
            work.advance("aborting")
        for name in (SOURCE, *work.servers):
            work.connections.end_orphans(name)
        while not work.record.has_ended:
            STEPS[work.record.stage](work)
            passed()

    def broken(self, waiting: str) -> None:
        self.work.connections.close()
        self.work.tell(waiting, "The source, all servers and the catalog have to answer.", force=True)
