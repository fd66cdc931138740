"""Runs pg_dump, pg_restore and psql on a server: the password by the environment, the rows through a pipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headway.errors import AppError, EngineError
from headway.process.pour import PourIn, ShouldStop, pour_out
from headway.sharding.engine import Engine
from headway.sharding.programs import needed, needs_other_program, said, undumped, unfilled, way

# Without a byte: the disk or the server hangs. An index over many rows is built without one, so restoring has longer.
DUMP_STUCK_S = 900.0
RESTORE_STUCK_S = 6 * 3600.0
# pg_restore writes it whatever the server is, and one that is older does not know it.
_NEWER_SETTING = b"\nSET transaction_timeout = 0;\n"
_ALONE = ("--no-owner", "--no-privileges", "--no-publications", "--no-subscriptions", "--no-tablespaces")


def check_versions(programs: Sequence[Engine], majors: Sequence[tuple[str, int]]) -> None:
    """That there is a pg_dump for every server. EngineError naming the first one that is too new."""
    newest = max(engine.major for engine in needed(programs))
    for where, major in majors:
        if major > newest:
            raise EngineError(
                f"pg_dump {newest} cannot read {where}, which runs PostgreSQL {major}",
                hint=f"Install it: apt install postgresql-client-{major}",
            )


def dump(
    where: str,
    conninfo: str,
    what: Sequence[str],
    sink: Callable[[bytes], None],
    programs: Sequence[Engine],
    stop: ShouldStop,
) -> Engine:
    """Give `sink` the dump, in pg_dump's custom format, of what the arguments `what` say; the program that made it.

    EngineError when the server goes away in the middle, or refuses; `sink` may have had a part by then.
    """
    given = 0

    def count(block: bytes) -> None:
        nonlocal given
        given += len(block)
        sink(block)

    place, env = way(conninfo, "headway backup")
    told = ""
    for engine in needed(programs):
        arguments = ["--format=custom", "--compress=1", "--encoding=UTF8", "--no-security-labels", *_ALONE, *what]
        argv = [engine.program("pg_dump"), *arguments, "--lock-wait-timeout=60s", "-d", place]
        done = pour_out(argv, count, env=env, stuck_s=DUMP_STUCK_S, stop=stop)
        if done.status == 0:
            return engine
        told = said(done.stderr)
        if given or not needs_other_program(told):
            break
    raise undumped(where, told)


class Refill:
    """SQL and a dump, in one transaction of psql's: all of it is there when `done` returns, or nothing.

    psql would commit at the end of its input, which is also what it sees when this process dies. So it is told to begin
    and to commit, and the second only after pg_restore has said that this was all.
    """

    def __init__(
        self, where: str, conninfo: str, program: Engine, *, name: str, old_server: bool, stop: ShouldStop
    ) -> None:
        self._where, self._program, self._stop, self._old = where, program, stop, old_server
        place, self._env = way(conninfo, name)
        argv = [program.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", place]
        self._psql = PourIn(argv, env=self._env, stuck_s=RESTORE_STUCK_S, stop=stop)
        self._head = b""

    def __enter__(self) -> Refill:
        self._write(b"BEGIN;\n")
        return self

    def __exit__(self, *error: object) -> None:
        self._psql.__exit__(None, None, None)

    def sql(self, text: str) -> None:
        """Statements of ours, before, between or after dumps."""
        self._write(text.encode() + b"\n")

    def archive(self, path: str) -> None:
        """A dump in custom format."""
        self._head = b"\n" if self._old else b""
        argv = [self._program.program("pg_restore"), *_ALONE, "-f", "-", path]
        done = pour_out(argv, self._pass, env=self._env, stuck_s=RESTORE_STUCK_S, stop=self._stop)
        if self._head:
            self._write(without_newer_setting(self._head))
        if done.status != 0:
            raise AppError(
                f"{path} cannot be read by pg_restore: {said(done.stderr)}",
                hint="A dump of a later PostgreSQL needs a pg_restore as new; else take another backup.",
            )
        self._write(b"\n")

    def done(self) -> None:
        """Commit."""
        self._write(b"COMMIT;\n")
        ended = self._psql.finish()
        if ended.status != 0:
            self._refused(ended.stderr)

    def _pass(self, block: bytes) -> None:
        """On to psql; to an older server without what it does not know, which stands at the very beginning."""
        if self._head:
            self._head += block
            if len(self._head) < 4096:
                return
            block, self._head = without_newer_setting(self._head), b""
        self._write(block)

    def _write(self, data: bytes) -> None:
        if not self._psql.write(data):
            self._refused(self._psql.finish().stderr)

    def _refused(self, stderr: str) -> None:
        raise unfilled(self._where, said(stderr) or "psql ended early")


def without_newer_setting(script: bytes) -> bytes:
    """The beginning of a dump as SQL, for a server of before PostgreSQL 17."""
    return script.replace(_NEWER_SETTING, b"\n", 1)
