"""Brings up an embedded PostgreSQL: prepares its data, says how to spawn it, creates the app's role and database.

The supervisor spawns and restarts the process; these are the steps around it, in order: `prepare`, spawn with
`spawn_arguments`, `wait_until_ready`, `ensure_database`. Every step may be killed at any point and is done again.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shlex
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from headway.errors import EngineError, HeadwayError, MachineError
from headway.process.identity import Identity, engine_identity, identity_of
from headway.process.run import Completed, run
from headway.sharding import settings, wire
from headway.sharding.connection import Health, check_url_reachable, health
from headway.sharding.engine import SHARED_FOLDER, Engine, data_major, find_postgresql, reachable_engine
from headway.sharding.failures import explain_failure
from headway.sharding.orphans import clear_stale_number, end_orphans, works_in
from headway.sharding.placement import (
    Record,
    leave_note,
    make_data_parent,
    make_databases_folder,
    make_private_folder,
    make_socket_folder,
    new_password,
    placement,
    read_record,
    sync_folder,
    write_private,
    write_record,
)
from headway.sharding.url import DatabaseUrl, compose_url

HOST = "127.0.0.1"
_INITDB_TIMEOUT_S = 120.0
_ADMINISTRATION_TIMEOUT_S = 60.0
# Each look at a starting server leaves a line in its log, so a long recovery is looked at less often.
_POLL_S, _POLL_MAX_S = 0.02, 0.25
_CHILDREN_END_S = 5.0
# The C library's name for a UTF-8 locale that sorts by code point; needed below 17, which has its own.
_C_UTF8_FOLDERS = (Path("/usr/lib/locale/C.utf8"), Path("/usr/lib/locale/C.UTF-8"))


@dataclass(frozen=True, slots=True)
class Server:
    """A prepared embedded PostgreSQL: what it takes to spawn it, to administer it and to connect to it."""

    name: str  # as declared
    engine: Engine
    identity: Identity | None  # the user it runs as; None: ourselves
    data_folder: Path
    socket_folder: Path
    port: int
    role: str
    database: str
    password: str = field(repr=False)
    running_pid: int | None = None  # it runs already: adopt it instead of spawning
    created: bool = False  # its data folder was made just now

    @property
    def url(self) -> str:
        """The app's URL, with the password."""
        return compose_url(
            DatabaseUrl("postgresql", ((HOST, self.port),), self.database, user=self.role, password=self.password)
        )


@dataclass(frozen=True, slots=True)
class SpawnArguments:
    """How the supervisor starts and stops the process."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    identity: Identity | None
    # SIGINT is PostgreSQL's fast shutdown: sessions are ended, everything is written. SIGTERM would wait for clients.
    stop_signal: signal.Signals = signal.SIGINT
    stop_timeout_s: float = 60.0
    # When that takes too long: stop at once and recover at the next start. Never SIGKILL first.
    last_signal: signal.Signals = signal.SIGQUIT


def prepare(
    state_folder: Path,
    run_folder: Path,
    *,
    system: str,
    name: str,
    database: str | None = None,
    memory_bytes: int | None = None,
    shared_folder: Path = SHARED_FOLDER,
) -> Server:
    """Make everything ready to spawn the embedded database `name` of `system`; `database` is PostgreSQL's name for it.

    The first time this initialises the data folder (about a second); later it only writes the configuration. A server
    that runs on the data already is left untouched and reported in `running_pid`.
    """
    try:
        server = _prepare(state_folder.resolve(), run_folder.resolve(), system, name, memory_bytes, shared_folder)
        return replace(server, database=settings.database_name(database)) if database else server
    except OSError as error:
        place = error.filename or state_folder
        raise MachineError(
            f"database {name} cannot be prepared: {place}: {error.strerror or error}",
            hint="Check that the folder is writable and the disk not full, or give another with --state DIR.",
        ) from error


def _prepare(
    state_folder: Path, run_folder: Path, system: str, name: str, memory_bytes: int | None, shared_folder: Path
) -> Server:
    make_databases_folder(state_folder)
    record = read_record(state_folder, name)
    data_folder = placement(state_folder, name, engine_identity(), record, shared_folder)
    identity = _owner(data_folder)
    engine = reachable_engine(find_postgresql(data_major(data_folder)), identity, shared_folder)
    record = replace(record, state_folder=str(state_folder), data_folder=str(data_folder)) if record else None
    if record is None:
        record = Record(str(state_folder), str(data_folder), new_password())
    # Remembered before the data exists, so that data outside the state folder is never forgotten.
    write_record(state_folder, name, record)
    leave_note(state_folder, name, data_folder, identity)
    _remove_leftovers(data_folder)
    created = data_major(data_folder) is None
    if created:
        make_data_parent(data_folder, shared_folder)
        _initialise(engine, data_folder, identity)
    server = Server(
        name=name,
        engine=engine,
        identity=identity,
        data_folder=data_folder,
        socket_folder=make_socket_folder(run_folder, name, identity),
        port=record.port,
        role=settings.role_name(system),
        database=settings.database_name(name),
        password=record.password,
        created=created,
    )
    if running := _running(data_folder):
        socket_folder = running.socket_folder or server.socket_folder
        return replace(server, running_pid=running.pid, port=running.port, socket_folder=socket_folder)
    server = replace(server, port=_choose_port(record.port, seed=f"{state_folder} {name}"))
    _configure(server, cluster_name=f"{system} {name}", memory_bytes=memory_bytes)
    if server.port != record.port:
        write_record(state_folder, name, replace(record, port=server.port))
    return server


def _owner(data_folder: Path) -> Identity | None:
    """Who runs the server: as root the owner of the data, so that it also goes on when another engine user appears."""
    identity = engine_identity()
    if os.geteuid() != 0:
        return None
    if data_folder.exists():
        uid = data_folder.stat().st_uid
        if uid == 0:
            raise EngineError(
                f"{data_folder} belongs to root, and PostgreSQL refuses to run as root",
                hint=f"Give it to the engines' user: chown -R {identity.name if identity else 'headway'} "
                f"{shlex.quote(str(data_folder))}",
            )
        if owner := identity_of(uid):
            return owner
    if identity is None:
        raise EngineError(
            "PostgreSQL refuses to run as root, and this machine has neither a user headway nor nobody",
            hint="Create one: useradd --system headway",
        )
    return identity


def _remove_leftovers(data_folder: Path) -> None:
    """What an interrupted first start left behind. Names are unique, so one that still runs harms nobody."""
    for leftover in data_folder.parent.glob(f".{data_folder.name}.initdb-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _initialise(engine: Engine, data_folder: Path, identity: Identity | None) -> None:
    """Create the data folder beside its place and move it there when it is complete and on disk."""
    new = Path(tempfile.mkdtemp(prefix=f".{data_folder.name}.initdb-", dir=data_folder.parent))
    try:
        make_private_folder(new, identity)
        # initdb writes first and syncs everything once at its end, for a tenth of a second: no reason to skip it.
        argv = [
            engine.program("initdb"),
            f"--pgdata={new}",
            f"--username={settings.SUPERUSER}",
            "--encoding=UTF8",
            *_locale_options(engine),
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
            "--data-checksums",
            "--no-instructions",
        ]
        done = run(argv, timeout_s=_INITDB_TIMEOUT_S, env=_environment(engine), identity=identity, cwd="/")
        if done.status != 0:
            message, hint = explain_failure(done.stderr or done.stdout)
            raise EngineError(f"PostgreSQL cannot create {data_folder}: {message}", hint=hint)
        configuration = (new / "postgresql.conf").read_text()
        write_private(new / "postgresql.conf", f"{configuration}\n{settings.INCLUDE_LINE}", identity)
        new.rename(data_folder)
        sync_folder(data_folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _locale_options(engine: Engine) -> list[str]:
    """Sorting by code point, the same on every machine and through every upgrade; upper and lower case of Unicode."""
    if engine.major >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C.UTF-8" if any(folder.is_dir() for folder in _C_UTF8_FOLDERS) else "--locale=C"]


def _configure(server: Server, *, cluster_name: str, memory_bytes: int | None) -> None:
    """Write the three files that are ours; a file that says the same already is not touched."""
    users = (server.identity.name if server.identity else getpass.getuser(), "root" if os.geteuid() == 0 else "")
    files = {
        settings.CONFIGURATION_FILE: settings.render_configuration(
            settings.Settings(
                cluster_name=cluster_name,
                port=server.port,
                socket_folder=str(server.socket_folder),
                shared_buffers_bytes=settings.shared_buffers_bytes(memory_bytes),
            )
        ),
        "pg_hba.conf": settings.render_access(),
        "pg_ident.conf": settings.render_users(tuple(user for user in users if user)),
    }
    for file_name, text in files.items():
        path = server.data_folder / file_name
        if not path.exists() or path.read_text() != text:
            write_private(path, text, server.identity)


def _choose_port(recorded: int, *, seed: str) -> int:
    """The port of last time while it is free, else the first free candidate."""
    for port in (recorded, *settings.port_candidates(seed)):
        if port and _is_free(port):
            return port
    raise MachineError(
        "no free port was found for PostgreSQL between 20000 and 30000", hint="`ss -ltn` shows what listens there."
    )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL itself does
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Running:
    pid: int
    port: int
    socket_folder: Path | None  # None: it has not come that far yet


def _running(data_folder: Path) -> _Running | None:
    """The server that runs on this data; clears a stale `postmaster.pid` whose number another program has now."""
    path = data_folder / "postmaster.pid"
    try:
        lines = path.read_text().splitlines()
        pid, port, socket_folder = int(lines[0]), int(lines[3]), Path(lines[4]) if lines[4] else None
    except FileNotFoundError:
        return None
    except (ValueError, IndexError):
        return None  # half-written: PostgreSQL judges it
    if _works_in(pid, data_folder):
        return _Running(abs(pid), port, socket_folder)
    # Children of a killed server end by themselves within moments, or never; a new one refuses to start beside them.
    deadline_s = time.monotonic() + _CHILDREN_END_S
    while any(_works_in(other, data_folder) for other in psutil.pids()):
        end_orphans(data_folder)
        if time.monotonic() >= deadline_s:
            break
        time.sleep(_POLL_S)
    clear_stale_number(data_folder)
    return None


def _works_in(pid: int, data_folder: Path) -> bool:
    """Whether there is such a process of the server; a negative number is one that serves a single user."""
    try:
        return works_in(psutil.Process(abs(pid)), data_folder)
    except psutil.Error:
        return False


def remove_socket_folder(server: Server) -> None:
    """Clear away the socket's folder once the process has ended; a killed one leaves its socket behind."""
    shutil.rmtree(server.socket_folder, ignore_errors=True)


def spawn_arguments(server: Server) -> SpawnArguments:
    """How to start and stop the process. Its log goes to standard error."""
    return SpawnArguments(
        argv=(server.engine.program("postgres"), "-D", str(server.data_folder)),
        env=_environment(server.engine),
        cwd="/",
        identity=server.identity,
    )


def _environment(engine: Engine) -> dict[str, str]:
    """Nothing of ours leaks into the engine: no PGDATA, no secrets of the app, one language for its messages."""
    return {"PATH": f"{engine.bin_folder}:/usr/bin:/bin", "LC_ALL": "C", "HOME": "/nonexistent"}


def is_ready(server: Server, *, timeout_s: float = 1.0) -> bool:
    """Whether the server takes connections now; never longer than `timeout_s`."""
    return server_health(server, timeout_s=timeout_s).alive


def server_health(server: Server, *, timeout_s: float = 1.0) -> Health:
    """A cheap look, by the way the app takes: TCP. No process, no line in the log, about a millisecond."""
    return health(HOST, server.port, timeout_s=timeout_s)


def wait_until_ready(server: Server, *, timeout_s: float = 60.0, is_alive: Callable[[], bool] = lambda: True) -> None:
    """Wait until the server takes connections. EngineError when it does not in time, or as soon as `is_alive` says that
    its process has ended (the caller then explains by the log: `explain_failure`)."""
    deadline_s = time.monotonic() + timeout_s
    poll_s = _POLL_S
    while True:
        # Judged before the look, so that another server on the port is not taken for a process that has just ended.
        alive = is_alive()
        state = server_health(server)
        if alive and state.alive:
            return
        if not alive:
            raise EngineError(f"PostgreSQL of database {server.name} ended at its start", hint="headway logs")
        if time.monotonic() >= deadline_s:
            raise EngineError(
                f"PostgreSQL of database {server.name} was not ready within {timeout_s:g} s: {state.reason}",
                hint="headway logs; after a crash it may be recovering and needs more time.",
            )
        time.sleep(poll_s)
        poll_s = min(poll_s * 1.5, _POLL_MAX_S)


def ensure_database(server: Server) -> bool:
    """Create the app's role and database, or put right what is wrong with them. True when something had to be done."""
    if not server.created:
        try:
            check_url_reachable(server.url, timeout_s=10.0, path=f"databases.{server.name}")
            return False
        except HeadwayError:
            pass  # missing, or another password: what follows creates or corrects it, or says why it cannot
    script = _CREATE.format(
        role=server.role,
        database=server.database,
        verifier=wire.scram_verifier(server.password, secrets.token_bytes(16)),
    )
    done = administer(server, script)
    if done.status != 0:
        message, hint = explain_failure(done.stderr)
        raise EngineError(f"database {server.name} cannot be created: {message}", hint=hint)
    return True


# By standard input, so that no process list shows it; the password only as the verifier that PostgreSQL stores.
_CREATE = r"""
\set role '{role}'
\set database '{database}'
\set verifier '{verifier}'
SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" LOGIN NOSUPERUSER PASSWORD :'verifier';
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'role')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
ALTER DATABASE :"database" OWNER TO :"role";
REVOKE CONNECT, TEMPORARY ON DATABASE :"database" FROM PUBLIC;
"""


def administer(server: Server, script: str, *, database: str = "postgres") -> Completed:
    """Run a psql script as the administrator, through the private socket."""
    env = _environment(server.engine) | {
        "PGHOST": str(server.socket_folder),
        "PGPORT": str(server.port),
        "PGUSER": settings.SUPERUSER,
        "PGCONNECT_TIMEOUT": "10",
    }
    argv = [server.engine.program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]
    return run(argv, timeout_s=_ADMINISTRATION_TIMEOUT_S, env=env, identity=server.identity, stdin=script, cwd="/")
