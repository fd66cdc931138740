"""Applies a schema file to a database exactly once, also when killed in the middle or started twice at the same time.

psql runs the file, so that everything a dump or a hand-written file holds is understood. The file and the note that it
was applied are one transaction: either both are there or neither. Later changes to the file are reported, not applied;
changing a database that holds data is the work of migrations.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headway.errors import AppError, EngineError
from headway.process.run import Completed, run
from headway.sharding.engine import Engine
from headway.sharding.script import single_transaction
from headway.sharding.url import for_libpq, parse_url

FILE_MAX_BYTES = 256 * 1024 * 1024
_QUERY_TIMEOUT_S = 30.0
# Any number does, as long as every Headway uses the same.
_LOCK = 4848017721
_NO_TLS = "SSL support is not compiled in"
_APPLIED_MEANWHILE = "headway: the schema was applied meanwhile"

# Looked for by its schema, so that a changed search_path does not hide it.
_WHERE = r"""
SELECT count(*) > 0 AS recorded, coalesce(min(format('%I.%I', nspname, relname)), 'none') AS record
  FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
 WHERE relname = 'headway_schema' AND relkind = 'r' AND nspname IN ('headway', 'public') \gset
"""
_RECORDED = (
    _WHERE
    + r"""
\if :recorded
SELECT file_sha256, to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"')
  FROM :record ORDER BY applied_at LIMIT 1;
\endif
"""
)
_BEFORE = (
    f"SELECT pg_catalog.pg_advisory_xact_lock({_LOCK})",
    f"""
DO $$
DECLARE found regclass; applied boolean;
BEGIN
  FOR found IN SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE relname = 'headway_schema' AND relkind = 'r' AND nspname IN ('headway', 'public')
  LOOP
    EXECUTE format('SELECT count(*) > 0 FROM %s', found) INTO applied;
    IF applied THEN RAISE EXCEPTION '{_APPLIED_MEANWHILE}'; END IF;
  END LOOP;
END $$""",
)
# A schema of its own keeps the record out of sight of tools that compare `public` with an app's models (and would drop
# what they do not know); only a role that may not create one keeps it in `public`.
_AFTER = """
RESET ROLE;
DO $$
DECLARE place text := 'public';
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'headway')
     OR pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') THEN
    CREATE SCHEMA IF NOT EXISTS headway;
    place := 'headway';
  END IF;
  EXECUTE pg_catalog.format('CREATE TABLE IF NOT EXISTS %I.headway_schema '
    '(file_sha256 text PRIMARY KEY, applied_at timestamptz NOT NULL)', place);
  EXECUTE pg_catalog.format('INSERT INTO %I.headway_schema VALUES (''{sha256}'', pg_catalog.now())', place);
END $$
"""


@dataclass(frozen=True, slots=True)
class SchemaOutcome:
    """What became of the file. `changed`: it was applied before and reads differently now, which was left alone."""

    state: Literal["applied", "unchanged", "changed"]
    file_sha256: str
    applied_at: str = ""  # of the earlier application, as text in UTC
    note: str = ""  # one sentence for the user, may be empty


def apply_schema_once(
    url: str, schema_file: Path, engine: Engine, *, timeout_s: float = 600.0, path: str = "databases.main"
) -> SchemaOutcome:
    """Apply `schema_file` to the database of `url` unless that was done before.

    AppError when the file is missing or PostgreSQL refuses it (nothing of it is applied then); EngineError when the
    database cannot be reached. `path` is the database's place in the declaration.
    """
    content = _read(schema_file, path)
    sha256 = hashlib.sha256(content).hexdigest()
    session = _Session(url, engine, schema_file, path)
    if earlier := _recorded(session):
        return _compare(sha256, earlier, schema_file)
    try:
        script = single_transaction(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise AppError(
            f"{path}.schema: {schema_file} is not UTF-8: {error.reason}", hint="Save it as UTF-8."
        ) from error
    if script.refused:
        line, word = script.refused[0]
        raise AppError(
            f"{path}.schema: {schema_file}:{line}: {word} does not go into a schema, which is one transaction",
            hint=f"Take {word} out of the file.",
        )
    done = session.psql(
        *(part for command in _BEFORE for part in ("-c", command)),
        *("-f", "-"),
        *("-c", _AFTER.format(sha256=sha256)),
        single=True,
        stdin=script.text,
        timeout_s=timeout_s,
    )
    if done.status != 0:
        if _APPLIED_MEANWHILE in done.stderr and (earlier := _recorded(session)):
            return _compare(sha256, earlier, schema_file)
        raise _refused(done, schema_file, path)
    note = ""
    if script.left_out:
        lines = ", ".join(str(line) for line in script.left_out[:10])
        note = (
            f"{schema_file} begins or ends transactions itself (line {lines}); "
            "that was left out, the whole file is one transaction"
        )
    return SchemaOutcome("applied", sha256, note=note)


def _read(schema_file: Path, path: str) -> bytes:
    try:
        with schema_file.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise AppError(
            f"{path}.schema: {schema_file} cannot be read: {error.strerror}",
            hint="Correct the name in headway.toml; it is relative to the declaration.",
        ) from error
    if len(content) > FILE_MAX_BYTES:
        raise AppError(
            f"{path}.schema: {schema_file} is larger than {FILE_MAX_BYTES // 2**20} MiB",
            hint="Keep the schema alone in that file and load the data with psql.",
        )
    return content


def _compare(sha256: str, earlier: tuple[str, str], schema_file: Path) -> SchemaOutcome:
    recorded, applied_at = earlier
    if recorded == sha256:
        return SchemaOutcome("unchanged", sha256, applied_at)
    note = f"{schema_file} has changed since it was applied ({applied_at}); the change was not applied: use a migration"
    return SchemaOutcome("changed", sha256, applied_at, note)


def _recorded(session: _Session) -> tuple[str, str] | None:
    """Hash and time of the earlier application."""
    done = session.psql("-f", "-", stdin=_RECORDED, timeout_s=_QUERY_TIMEOUT_S)
    if done.status != 0:
        raise _unreachable(done, session.path)
    sha256, separator, applied_at = done.stdout.strip().partition("|")
    return (sha256, applied_at) if separator else None


@dataclass(frozen=True, slots=True)
class _Session:
    """How psql gets to the database: the URL without its secrets in argv, the password in the environment."""

    url: str
    engine: Engine
    schema_file: Path
    path: str

    def psql(self, *arguments: str, stdin: str, timeout_s: float, single: bool = False) -> Completed:
        """Run psql; one that knows no TLS gives way to the next when the database asks for it."""
        url = parse_url(self.url, path=f"{self.path}.url")
        done: Completed | None = None
        for program in dict.fromkeys((self.engine.program("psql"), *_system_psql())):
            argv = [program, "-XAtq", "-v", "ON_ERROR_STOP=1", *(["-1"] if single else []), "-d", for_libpq(url)]
            # The file's own folder, for what it includes by \i and \copy.
            done = run(
                [*argv, *arguments],
                timeout_s=timeout_s,
                env=_environment(url.password, url.option("sslpassword")),
                stdin=stdin,
                cwd=str(self.schema_file.resolve().parent),
            )
            if done.status == 0 or not (_NO_TLS in done.stderr or "no encryption" in done.stderr):
                break
        assert done is not None
        return done


def _system_psql() -> Iterator[str]:
    yield from sorted((str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/psql")), reverse=True)
    if found := shutil.which("psql"):
        yield found


def _environment(password: str, ssl_password: str) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "USER", "PGPASSFILE")}
    secrets = {name: value for name, value in (("PGPASSWORD", password), ("PGSSLPASSWORD", ssl_password)) if value}
    if not password and "PGPASSWORD" in os.environ:
        secrets["PGPASSWORD"] = os.environ["PGPASSWORD"]
    return kept | secrets | {"LC_ALL": "C", "PGCLIENTENCODING": "UTF8", "PGCONNECT_TIMEOUT": "10"}


def _unreachable(done: Completed, path: str) -> EngineError:
    text = " ".join(done.stderr.split()) or f"psql ended with status {done.status}"
    if _NO_TLS in text or "no encryption" in text:
        return EngineError(
            f"{path}: the database wants TLS, which the psql at hand does not know",
            hint="Install the system's: apt install postgresql-client",
        )
    return EngineError(
        f"{path}: {text.removeprefix('psql: error: ')}", hint="Check the URL and that the database is up."
    )


_ERROR = re.compile(r"^psql:<stdin>:(\d+): (?:ERROR|FATAL|PANIC|error): +(.*)$", re.MULTILINE)
_ANY_ERROR = re.compile(r"^(?:psql: )?(?:ERROR|FATAL|PANIC|error): +(.*)$", re.MULTILINE)
_EXCERPT = re.compile(r"^LINE \d+: (.*)$", re.MULTILINE)
_HINT = re.compile(r"^HINT: +(.*)$", re.MULTILINE)


def _refused(done: Completed, schema_file: Path, path: str) -> AppError | EngineError:
    """The error for a file that PostgreSQL did not take: where, what, and what to do."""
    if done.status == 2:
        return _unreachable(done, path)
    found = _ERROR.search(done.stderr)
    place, message = (f"{schema_file}:{found[1]}", found[2]) if found else (str(schema_file), "")
    if not found:
        other = _ANY_ERROR.search(done.stderr)
        message = other[1] if other else f"psql ended with status {done.status}"
    excerpt = _EXCERPT.search(done.stderr)
    hint = "Nothing of the file was applied; correct the statement that ends on this line"
    if excerpt:
        hint += f": {excerpt[1].strip()[:120]}"
    if postgresql_hint := _HINT.search(done.stderr):
        hint += f" ({postgresql_hint[1]})"
    if "cannot run inside a transaction block" in message or "cannot be executed from" in message:
        hint = (
            "Nothing of the file was applied, which happens in one transaction: move that statement into a migration."
        )
    elif "unsafe use of new value" in message:
        hint = "Nothing of the file was applied, which happens in one transaction: create the enum with all its values."
    elif "already exists" in message:
        hint = (
            "Nothing of the file was applied. The database holds these tables already: take `schema` out, or empty it."
        )
    return AppError(f"{path}.schema: {place}: {message}", hint=hint, detail=done.stderr[-4000:])
