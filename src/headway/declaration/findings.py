"""What in an app's source decides how it may be run: state in one process, schedulers, SQLite, its environment.

Pure: works on syntax trees. A finding is a guess with its place; `init` writes it down for a person to judge.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from headway.declaration.modules import Module

Kind = Literal["state", "scheduler", "sqlite", "sticky", "celery"]

_SCHEDULERS = {
    "apscheduler": "APScheduler",
    "flask_apscheduler": "Flask-APScheduler",
    "django_apscheduler": "django-apscheduler",
    "schedule": "schedule",
    "rocketry": "Rocketry",
    "aiocron": "aiocron",
}
_SCHEDULER_CALLS = frozenset({"repeat_every", "repeat_at"})
_STATE_NAME = re.compile(
    r"_*((user_?|web_?|chat_?|login_?|active_?|live_?|open_?|http_?)*"
    r"(sessions?(_store|_data|_cache)?|connections|clients|sockets|websockets|rooms|lobbies|games|players|carts|baskets)"
    r"|logged_in(_users)?|online(_users)?|connected(_clients|_users)?|session_(store|data|cache)|(auth|access)_tokens)",
    re.IGNORECASE,
)
_EMPTY_CALLS = frozenset(
    ["dict", "set", "list", "defaultdict", "OrderedDict", "TTLCache", "LRUCache", "WeakSet", "WeakValueDictionary"]
)
_MEMORY_STORES = frozenset({"InMemoryBackend", "InMemoryStore", "InMemorySessionStore"})
_LOCAL_SESSION_TYPES = ("filesystem", "cachelib", "simple", "memory")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the source: `text` says what it is, `where` is file:line."""

    kind: Kind
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class EnvRead:
    """A variable of the environment that the app reads; `default` where the source gives one as text."""

    name: str
    where: str
    required: bool
    default: str | None = None


def find_findings(modules: Iterable[Module]) -> tuple[Finding, ...]:
    """All findings, in the order of the files; of the same sentence the first."""
    modules = tuple(modules)
    own = {module.name.partition(".")[0] for module in modules}
    found: dict[tuple[str, str], Finding] = {}
    for module in modules:
        for finding in sorted(_of_module(module, own), key=lambda item: int(item.where.rpartition(":")[2])):
            found.setdefault((finding.kind, finding.text), finding)
    return tuple(found.values())


def _of_module(module: Module, own: set[str]) -> Iterator[Finding]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _import(module, node, own)
        elif isinstance(node, ast.Call):
            yield from _call(module, node, own)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _text(module, node, node.value)
        elif isinstance(node, ast.Assign):
            yield from _assign(module, node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            yield from _attribute(module, node, node.target, node.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                yield from _setting(module, value, _constant(key), value)
    yield from _module_state(module)
    yield from _django_sessions(module)


def _import(module: Module, node: ast.Import | ast.ImportFrom, own: set[str]) -> Iterator[Finding]:
    if isinstance(node, ast.ImportFrom):
        names = [node.module] if node.module and node.level == 0 else []
    else:
        names = [alias.name for alias in node.names]
    for name in names:
        first = name.partition(".")[0]
        if first in _SCHEDULERS and first not in own:
            yield Finding("scheduler", module.where(node), f"{_SCHEDULERS[first]} runs jobs inside the app")
        if first in ("sqlite3", "aiosqlite"):
            yield Finding("sqlite", module.where(node), "the app uses SQLite")


def _call(module: Module, node: ast.Call, own: set[str]) -> Iterator[Finding]:
    qualified = module.qualified(node.func)
    first, last = qualified.partition(".")[0], qualified.rpartition(".")[2]
    given = {keyword.arg for keyword in node.keywords}
    where = module.where(node)
    if last in _SCHEDULER_CALLS:
        yield Finding("scheduler", where, f"@{last} runs jobs inside the app")
    if (first == "socketio" and last in ("AsyncServer", "Server")) or (
        first == "flask_socketio" and last == "SocketIO"
    ):
        if {"client_manager", "message_queue"} & given:
            yield Finding("sticky", where, "Socket.IO's polling needs a client to stay on its replica")
        else:
            yield Finding(
                "state", where, "Socket.IO keeps its clients in one process (no client_manager or message_queue)"
            )
    if last in _MEMORY_STORES and first not in own:
        yield Finding("state", where, f"{last} keeps sessions in one process")
    if last == "ServerSideSessionConfig" and "store" not in given:
        yield Finding("state", where, "Litestar's server-side sessions are kept in one process by default")
    if qualified == "celery.Celery":
        yield Finding("celery", where, f"{module.name}")
    for keyword in node.keywords:
        yield from _setting(module, node, keyword.arg, keyword.value)


def _text(module: Module, node: ast.Constant, text: str) -> Iterator[Finding]:
    where = module.where(node)
    if len(text) > 300 or "\n" in text:
        return
    if re.fullmatch(r"sqlite(\+\w+)?://(/:memory:.*)?", text) or text in (":memory:", "file::memory:?cache=shared"):
        yield Finding("state", where, "SQLite in memory is one process's own")
    elif re.match(r"sqlite(\+\w+)?:///", text) or text == "django.db.backends.sqlite3":
        yield Finding("sqlite", where, "the app uses SQLite")
    elif text.endswith("InMemoryChannelLayer"):
        yield Finding("state", where, "Django Channels' in-memory layer reaches one process alone")


def _assign(module: Module, node: ast.Assign) -> Iterator[Finding]:
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield from _setting(module, node, target.id, node.value)
        elif isinstance(target, ast.Subscript):
            yield from _setting(module, node, _constant(target.slice), node.value)
        elif isinstance(target, ast.Attribute):
            yield from _attribute(module, node, target, node.value)


def _attribute(module: Module, node: ast.AST, target: ast.Attribute, value: ast.expr | None) -> Iterator[Finding]:
    """`self.active_connections = []`."""
    if _STATE_NAME.fullmatch(target.attr) and _empty(module, value):
        yield Finding("state", module.where(node), f"`{target.attr}` is kept in one process")


def _setting(module: Module, node: ast.AST, name: str | None, value: ast.expr) -> Iterator[Finding]:
    """`SESSION_TYPE = "filesystem"`, as a name, a key or an argument."""
    if name == "SESSION_TYPE" and _constant(value) in _LOCAL_SESSION_TYPES:
        yield Finding("state", module.where(node), f'SESSION_TYPE "{_constant(value)}" keeps sessions on one machine')


def _module_state(module: Module) -> Iterator[Finding]:
    """`sessions = {}` at the top of a module: every process would have its own."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign):
            targets: list[ast.expr] = node.targets
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and _STATE_NAME.fullmatch(target.id) and _empty(module, node.value):
                yield Finding("state", module.where(node), f"`{target.id}` is kept in one process")


def _empty(module: Module, value: ast.expr | None) -> bool:
    """An empty container, which the app fills while it runs."""
    if isinstance(value, ast.Dict):
        return not value.keys
    if isinstance(value, ast.List | ast.Set):
        return not value.elts
    return isinstance(value, ast.Call) and module.qualified(value.func).rpartition(".")[2] in _EMPTY_CALLS


def _django_sessions(module: Module) -> Iterator[Finding]:
    """Sessions in Django's cache are in one process unless a cache is configured that is not."""
    settings = {
        target.id: node
        for node in module.tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    engine = settings.get("SESSION_ENGINE")
    if engine is None or _constant(engine.value) != "django.contrib.sessions.backends.cache":
        return
    caches = settings.get("CACHES")
    text = ast.dump(caches.value) if caches is not None else "locmem"
    if "locmem" in text.lower():
        yield Finding(
            "state", module.where(engine), "Django keeps these sessions in the memory of one process (LocMemCache)"
        )


def find_env_reads(modules: Iterable[Module]) -> tuple[EnvRead, ...]:
    """Every variable of the environment that the source names, the first place of each; required if any place is."""
    found: dict[str, EnvRead] = {}
    for module in modules:
        for read in (*_env_of_calls(module), *_env_of_settings(module)):
            known = found.setdefault(read.name, read)
            if (read.required and not known.required) or (known.default is None and read.default is not None):
                required, default = known.required or read.required, known.default or read.default
                found[read.name] = EnvRead(known.name, known.where, required, default)
    return tuple(found.values())


_READERS = frozenset({"getenv", "env", "config", "db", "db_url"})


def _env_of_calls(module: Module) -> Iterator[EnvRead]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            name = _constant(node.slice)
            if name and re.fullmatch(r"\w+", name) and module.qualified(node.value).rpartition(".")[2] == "environ":
                yield EnvRead(name, module.where(node), required=True)
        elif isinstance(node, ast.Call):
            qualified = module.qualified(node.func)
            last = qualified.rpartition(".")[2]
            if qualified == "dj_database_url.config" and not node.args:
                yield EnvRead("DATABASE_URL", module.where(node), required=False)
            name = _constant(node.args[0]) if node.args else None
            is_reader = last in _READERS or qualified.endswith("environ.get")
            if name and is_reader and re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
                keywords = {keyword.arg: keyword.value for keyword in node.keywords}
                default = node.args[1] if len(node.args) > 1 else keywords.get("default")
                yield EnvRead(name, module.where(node), required=False, default=_constant(default))
            elif last == "db" and not node.args and qualified.partition(".")[0] in ("env", "environ"):
                yield EnvRead("DATABASE_URL", module.where(node), required=False)


def _env_of_settings(module: Module) -> Iterator[EnvRead]:
    """Fields of pydantic settings are variables of the same name."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and any(
            module.qualified(parent).rpartition(".")[2] == "BaseSettings" for parent in node.bases
        ):
            prefix = next((p for inner in ast.walk(node) if (p := _env_prefix(inner)) is not None), "")
            for field in node.body:
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and field.target.id.islower()
                ):
                    name = (prefix + field.target.id).upper()
                    yield EnvRead(name, module.where(field), field.value is None, _constant(field.value))


def _env_prefix(node: ast.AST) -> str | None:
    if isinstance(node, ast.keyword) and node.arg == "env_prefix":
        return _constant(node.value)
    if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "env_prefix" for t in node.targets):
        return _constant(node.value)
    return None


def _constant(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
