"""Migrations as SQL files, `0001_orders.sql` and on: which of them a shard still needs. Pure.

A file is applied to every shard by itself, in one transaction with its row in the shard's ledger: it is there whole or
not at all, and a run that was killed goes on where it was. What cannot run in a transaction (`CREATE INDEX
CONCURRENTLY`) stands alone in a file that begins with `-- headway: no transaction`.

A file that was applied is history: one that is changed, taken away or slipped in between is refused, for some shards
would have it and others not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from headway.errors import Problem
from headway.sharding.script import single_transaction, statements

HEAD = "head"  # what Alembic calls the newest, and all do here
FILE_MAX_BYTES = 8 * 1024 * 1024
_NAME = re.compile(r"^(\d{1,14})[_.-].*\.sql$")
_ALONE = re.compile(r"^\s*--\s*headway:\s*no transaction\s*$", re.IGNORECASE | re.MULTILINE)
_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)'
_BUILDS = re.compile(
    r"^\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?"
    rf"(?P<index>(?!ON\s){_IDENTIFIER})\s+ON\s+(?:ONLY\s+)?(?:(?P<schema>{_IDENTIFIER})\s*\.)?",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: `name` orders it and is its row in the ledger."""

    name: str
    sql: str
    checksum: str
    alone: bool = False  # outside of a transaction

    @property
    def index(self) -> str:
        """The index that it builds beside the app's work, as SQL takes its name; empty where it builds none."""
        found = _BUILDS.search(self.sql) if self.alone else None
        if found is None:
            return ""
        return f"{found['schema']}.{found['index']}" if found["schema"] else found["index"]

    @property
    def drops(self) -> bool:
        """Whether it takes something away; of one that runs alone."""
        first = next(statements(self.sql), None)
        return first is not None and first.words[:1] == ("DROP",)

    @property
    def number(self) -> int:
        """The number that its name begins with."""
        return int(_NAME.match(self.name)[1])  # type: ignore[index]


def migrations(files: Mapping[str, str]) -> tuple[tuple[Migration, ...], tuple[Problem, ...]]:
    """The migrations of a folder's files (name → text), in order, and what is wrong with them."""
    found: list[Migration] = []
    problems: list[Problem] = []
    for name, text in files.items():
        if _NAME.match(name) is None:
            problems.append(Problem(name, "begins with no number", "Name migrations 0001_what_it_does.sql."))
            continue
        alone = _ALONE.search(text[:500]) is not None
        sql, told = (text, _told_alone(name, text)) if alone else _in_transaction(name, text)
        problems += told
        found.append(Migration(name, sql, hashlib.sha256(text.encode()).hexdigest(), alone))
    found.sort(key=lambda migration: (migration.number, migration.name))
    for one, other in pairwise(found):
        if one.number == other.number:
            problems.append(Problem(other.name, f"has the number of {one.name}", "Give it the next free number."))
    return tuple(found), tuple(problems)


def _in_transaction(name: str, text: str) -> tuple[str, list[Problem]]:
    script = single_transaction(text)
    problems = [
        Problem(f"{name}:{line}", f"{word} cannot be applied in one transaction", "Take it out.")
        for line, word in script.refused
    ]
    for statement in statements(text):
        if "CONCURRENTLY" in statement.words or statement.words[:1] == ("VACUUM",):
            line = text.count("\n", 0, statement.start) + 1
            hint = "Put it into a file of its own that begins with: -- headway: no transaction"
            problems.append(Problem(f"{name}:{line}", "cannot run in a transaction", hint))
        elif statement.words and statement.words[0].startswith("\\"):
            line = text.count("\n", 0, statement.start) + 1
            problems.append(Problem(f"{name}:{line}", f"{statement.words[0]} is psql's, not SQL", "Take it out."))
    return script.text, problems


def _told_alone(name: str, text: str) -> list[Problem]:
    count = sum(1 for _ in statements(text))
    if count == 1:
        return []
    hint = "A second one could fail after the first was done: one file a statement."
    return [Problem(name, f"runs in no transaction and holds {count} statements", hint)]


def up_to(wanted: Sequence[Migration], name: str) -> tuple[Migration, ...]:
    """The migrations up to the one of this file name or number, or all by `head`; none where there is no such one."""
    if name == HEAD:
        return tuple(wanted)
    for index, migration in enumerate(wanted):
        if name in (migration.name, migration.name.removesuffix(".sql")):
            return tuple(wanted[: index + 1])
        if name.isdecimal() and int(name) == migration.number:
            return tuple(wanted[: index + 1])
    return ()


def pending(
    wanted: Sequence[Migration],
    ledgers: Mapping[int, Mapping[str, str]],
    name: Callable[[int], str] = "shard {}".format,
) -> tuple[dict[int, tuple[Migration, ...]], tuple[Problem, ...]]:
    """What each shard still needs (`ledgers`: shard → name → checksum), and why its history does not fit the files.
    `name`: what a shard is called."""
    needed: dict[int, tuple[Migration, ...]] = {}
    problems: dict[tuple[str, str], Problem] = {}
    by_name = {migration.name: migration for migration in wanted}
    for shard, ledger in sorted(ledgers.items()):
        for problem in _history(name(shard), ledger, wanted, by_name):
            problems.setdefault((problem.path, problem.hint), problem)  # of each kind one, by its first shard
        needed[shard] = tuple(migration for migration in wanted if migration.name not in ledger)
    return needed, tuple(problems.values())


def _history(
    shard: str, ledger: Mapping[str, str], wanted: Sequence[Migration], by_name: Mapping[str, Migration]
) -> Iterable[Problem]:
    for name, checksum in ledger.items():
        known = by_name.get(name)
        if known is None:
            yield Problem(name, "was applied and is gone", "Put it back; a new migration undoes what it did.")
        elif known.checksum != checksum:
            yield Problem(name, "was changed after it was applied", "Undo the change; write it as a new migration.")
    last = max((by_name[name].number for name in ledger if name in by_name), default=-1)
    for migration in wanted:
        if migration.name not in ledger and migration.number < last:
            hint = "Give it a number behind the last one."
            yield Problem(migration.name, f"comes before one that was applied already, first on {shard}", hint)
