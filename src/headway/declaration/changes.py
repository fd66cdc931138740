"""What `up` would change on a running system: each difference as a sentence, with what it costs.

Three costs: a hitless reload of the edge (what HAProxy's run-time API cannot change), new replicas of a service (what a
process reads once, when it starts), or nothing that anybody notices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal

from headway.declaration.calls import at_edge, by_url, called_by, callers
from headway.declaration.keys import key_of
from headway.declaration.references import references
from headway.errors import Conflict
from headway.model.declared import At, Cache, Database, Edge, ReplicaRange, Responses, Service, System
from headway.model.launch import slots_for
from headway.model.units import format_bytes, format_duration, spell_rate


class Cost(Enum):
    """What a changed key asks for."""

    RELOAD = "the edge reloads"
    REPLACE = "its replicas are replaced one by one"
    REPLACE_AND_RELOAD = "its replicas are replaced one by one, and the edge reloads"
    SCALE = "replicas are added or removed"
    AT_ONCE = "applies at once"
    NEXT_START = "applies when the system starts the next time"


# Every field of the declaration; a new one must say here what changing it costs (a test holds this complete).
SERVICE_COSTS: dict[str, Cost] = {
    "app": Cost.REPLACE,
    "command": Cost.REPLACE,
    "interface": Cost.REPLACE,
    "routes": Cost.RELOAD,
    "static": Cost.REPLACE,
    "replicas": Cost.SCALE,
    "threads": Cost.REPLACE,
    "python": Cost.REPLACE,
    "folder": Cost.REPLACE,
    "slo_s": Cost.AT_ONCE,
    "deadline_s": Cost.RELOAD,
    "criticality": Cost.RELOAD,
    "cancel": Cost.REPLACE_AND_RELOAD,  # the edge tells the worker that somebody has hung up
    "at": Cost.RELOAD,  # its routes queue in backends of their own, which only a reload makes
    "uses": Cost.AT_ONCE,  # of a service: its processes are told where, and the edge gets a way for calls
    "cache": Cost.REPLACE,
    "env": Cost.REPLACE,
    "memory_max_bytes": Cost.AT_ONCE,
    "body_max_bytes": Cost.REPLACE_AND_RELOAD,
    "sticky": Cost.RELOAD,
    "limit": Cost.AT_ONCE,  # the edge and the worker are told; a far higher one is more than its process can hold
    "overload": Cost.RELOAD,
    "streams_max": Cost.REPLACE,
    "calls_max": Cost.REPLACE,
    "health": Cost.REPLACE,
    "start_timeout_s": Cost.AT_ONCE,
    "drain_timeout_s": Cost.AT_ONCE,
    "hang_timeout_s": Cost.AT_ONCE,
}
CACHE_COSTS: dict[str, Cost] = {
    "memory_max_bytes": Cost.AT_ONCE,
    "url": Cost.REPLACE,
    "sentinel": Cost.REPLACE,
    "near_max_bytes": Cost.REPLACE,
    "timeout_s": Cost.REPLACE,
}
EDGE_COSTS: dict[str, Cost] = dict.fromkeys(Edge.model_fields, Cost.RELOAD)

# Keys that the edge knows of a service; of a private one that nobody calls it knows nothing.
_EDGE_KEYS = frozenset({"routes", "deadline_s", "sticky", "body_max_bytes", "criticality", "cancel", "at", "overload"})


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `replaces` names the services whose replicas must be new."""

    path: str  # "services.web.env"
    kind: Literal["added", "removed", "changed"]
    sentence: str
    edge_reload: bool = False
    replaces: tuple[str, ...] = ()


def changes(before: System, after: System) -> tuple[Change, ...]:
    """Every difference between two complete systems, in the order system, edge, databases, caches, services."""
    return (
        *_name(before, after),
        *_traces(before, after),
        *_edge(before.edge, after.edge),
        *_databases(before, after),
        *_caches(before, after),
        *_services(before, after),
    )


def check_shards(before: System, after: System, now: Mapping[str, int] = MappingProxyType({})) -> None:
    """Conflict where a database that exists would get another number of shards: its rows would not be found.

    `now`: by database, how many shards there are by the catalog, which is more after a split.
    """
    for name, database in after.databases.items():
        old = before.databases.get(name)
        if old is not None and old.shards != database.shards and now.get(name) != (database.shards or 0):
            has = now.get(name) or old.shards
            hint = "The number of shards is fixed when a database is created; declare another database beside it."
            if has and database.shards and database.shards > has:
                hint = f"headway db split {name} doubles its shards while it runs; declare {2 * has} afterwards."
            raise Conflict(
                f"databases.{name}.shards: it has {has or 'none'}, and {database.shards or 'none'} are declared",
                hint=hint,
            )


def shards_to_write(declared: System, now: Mapping[str, int | None]) -> dict[str, str]:
    """By path, what to write where a split has made more shards than are declared. `now`: how many there are."""
    return {
        f"databases.{name}.shards": f"{database.shards} are declared, and since a split there are {count}: "
        f"write shards = {count} in [databases.{name}]"
        for name, database in declared.databases.items()
        if database.shards is not None and (count := now.get(name)) is not None and count > database.shards
    }


def _name(before: System, after: System) -> Iterator[Change]:
    if before.name != after.name:
        sentence = f"system.name: {before.name} → {after.name}; {Cost.NEXT_START.value}"
        yield Change("system.name", "changed", sentence)


def _traces(before: System, after: System) -> Iterator[Change]:
    if before.traces != after.traces:
        apps = tuple(name for name, service in after.services.items() if service.app)
        told = f"{_shown(before.traces)} → {_shown(after.traces)}"
        yield Change(
            "system.traces", "changed", f"system.traces: {told}; replicas are replaced one by one", replaces=apps
        )
    if before.otlp != after.otlp:
        told = f"{_shown(before.otlp)} → {_shown(after.otlp)}"
        reload = (before.otlp is None) != (after.otlp is None)  # the edge has spans of its own where they are sent
        cost = Cost.RELOAD if reload else Cost.AT_ONCE
        yield Change("system.otlp", "changed", f"system.otlp: {told}; {cost.value}", reload)


def _edge(before: Edge, after: Edge) -> Iterator[Change]:
    for field, info in Edge.model_fields.items():
        old, new = getattr(before, field), getattr(after, field)
        if old == new:
            continue
        path = f"edge.{key_of(field, info)}"
        if field == "tls" and old is not None and new is not None:
            yield Change(path, "changed", f"{path}: another certificate; it is swapped without a reload")
        else:
            told = f"{_shown(old, field)} → {_shown(new, field)}"
            if field == "tls":
                told = "off" if new is None else "on"
            yield Change(path, "changed", f"{path}: {told}; {EDGE_COSTS[field].value}", edge_reload=True)


def _databases(before: System, after: System) -> Iterator[Change]:
    for name in _names(before.databases, after.databases):
        old, new, path = before.databases.get(name), after.databases.get(name), f"databases.{name}"
        if old is None:
            yield Change(path, "added", f"{path}: added; it starts before the services that use it")
        elif new is None:
            yield Change(path, "removed", f"{path}: removed; it stops, its data stays")
        else:
            yield from _database(name, old, new, after)


def _database(name: str, old: Database, new: Database, after: System) -> Iterator[Change]:
    if old.url != new.url:
        users = tuple(service for service, declared in after.services.items() if name in _needs(declared))
        whose = f"; replicas of {', '.join(users)} are replaced one by one" if users else ""
        # Never the URL itself: it may hold a password.
        sentence = f"databases.{name}.url: another server{whose}; no data is copied"
        yield Change(f"databases.{name}.url", "changed", sentence, replaces=users)
    path = f"databases.{name}"
    if old.shards != new.shards:
        sentence = (
            f"{path}.shards: {_shown(old.shards)} → {_shown(new.shards)}; only after headway db split has done so"
        )
        yield Change(f"{path}.shards", "changed", sentence)
    if old.servers != new.servers:
        # Never the URLs themselves: they may hold passwords.
        sentence = f"{path}.servers: others than before; no shard moves by itself"
        yield Change(f"{path}.servers", "changed", sentence)
    for key in ("keys", "joins", "import_from", "ids", "reference", "active_max", "idle_max"):
        if getattr(old, key) != getattr(new, key):
            yield Change(f"{path}.{key}", "changed", f"{path}.{key}: changed; its services' replicas are replaced")
    if old.schema_file != new.schema_file:
        sentence = (
            f"databases.{name}.schema: {_shown(old.schema_file)} → {_shown(new.schema_file)}; applied once, if none was"
        )
        yield Change(f"databases.{name}.schema", "changed", sentence)


def _caches(before: System, after: System) -> Iterator[Change]:
    for name in _names(before.caches, after.caches):
        old, new, path = before.caches.get(name), after.caches.get(name), f"caches.{name}"
        if old is None:
            yield Change(path, "added", f"{path}: added; it starts before the services that use it")
        elif new is None:
            yield Change(path, "removed", f"{path}: removed; what it holds is forgotten")
        else:
            yield from _cache(path, old, new, tuple(s for s, one in after.services.items() if name in _needs(one)))


def _cache(path: str, old: Cache, new: Cache, users: tuple[str, ...]) -> Iterator[Change]:
    for field, info in Cache.model_fields.items():
        before, after = getattr(old, field), getattr(new, field)
        if before == after:
            continue
        where = f"{path}.{key_of(field, info)}"
        replaces = users if CACHE_COSTS[field] is Cost.REPLACE else ()
        # Never a URL or a password itself.
        told = "another server" if field in ("url", "sentinel") else f"{_shown(before, field)} → {_shown(after, field)}"
        cost = Cost.AT_ONCE.value if not replaces else f"replicas of {', '.join(users)} are replaced one by one"
        yield Change(where, "changed", f"{where}: {told}; {cost}", replaces=replaces)


def _needs(service: Service) -> frozenset[str]:
    """Databases and caches by name; those of `cache` are among `uses` in a complete system."""
    return frozenset((*service.uses, *(reference.owner for _, reference in references(service))))


def _services(before: System, after: System) -> Iterator[Change]:
    known, knows = at_edge(before), at_edge(after)
    services = before.services.keys() | after.services.keys()  # what is called of them is told by itself
    for name in _names(before.services, after.services):
        old, new, path = before.services.get(name), after.services.get(name), f"services.{name}"
        if new is None and old is not None:
            also = "; the edge reloads" if name in known else ""
            yield Change(path, "removed", f"{path}: removed; its replicas drain and stop{also}", name in known)
        elif old is None and new is not None:
            also = "; the edge reloads" if name in knows else ""
            yield Change(path, "added", f"{path}: added; its replicas start{also}", name in knows)
        elif old is not None and new is not None:
            calls = bool(called_by(after, name))
            yield from _service(name, old, new, services, is_at_edge=name in known | knows, calls=calls)
            yield from _calls(name, before, after)


def _calls(name: str, before: System, after: System) -> Iterator[Change]:
    """Ways of calls that come, go, or promise another time, for one that calls."""
    path = f"services.{name}.uses"
    earlier, later = called_by(before, name), called_by(after, name)
    words = [f"calls {other}" for other in later if other not in earlier]
    words += [f"calls {other} no more" for other in earlier if other not in later]
    if words:
        ways = (callers(before).keys(), by_url(before)) != (callers(after).keys(), by_url(after))
        cost = (Cost.REPLACE_AND_RELOAD if ways else Cost.REPLACE).value
        yield Change(path, "changed", f"{path}: {', '.join(words)}; {cost}", ways, (name,))
    told = [
        other
        for other in later
        if other in earlier and before.services[other].deadline_s != after.services[other].deadline_s
    ]
    if told:
        sentence = f"{path}: {', '.join(told)} with another deadline; {Cost.REPLACE.value}"
        yield Change(path, "changed", sentence, replaces=(name,))


def _service(
    name: str, old: Service, new: Service, services: AbstractSet[str], *, is_at_edge: bool, calls: bool
) -> Iterator[Change]:
    for field, info in Service.model_fields.items():
        before, after = getattr(old, field), getattr(new, field)
        if before == after or (field == "uses" and set(before) ^ set(after) <= services):
            continue
        cost, path = _cost(field, before, after), f"services.{name}.{key_of(field, info)}"
        reload = is_at_edge and field in _EDGE_KEYS and cost is not Cost.AT_ONCE
        replaces = cost in (Cost.REPLACE, Cost.REPLACE_AND_RELOAD)
        if field in _EDGE_KEYS and not reload:
            cost = Cost.REPLACE if replaces else Cost.AT_ONCE
        elif field == "calls_max" and not calls:
            cost, replaces = Cost.AT_ONCE, False  # its processes are told of it with the services that they call
        told = f"{_shown(before, field)} → {_shown(after, field)}"
        if field == "env":
            told = _env_told(before, after)
        elif field == "command":
            told = "another command"  # its arguments may hold a secret
        sentence = f"{path}: {told}; {_scale_told(before, after) if cost is Cost.SCALE else cost.value}"
        yield Change(path, "changed", sentence, reload, (name,) if replaces else ())


def _cost(field: str, before: Any, after: Any) -> Cost:
    """What a changed key asks for, where that depends on its values too."""
    if field == "limit" and slots_for(before) != slots_for(after):
        return Cost.REPLACE
    if field == "at":
        if _cancels(before) != _cancels(after):
            return Cost.REPLACE_AND_RELOAD
        if _routed(before) == _routed(after):
            return Cost.AT_ONCE  # the edge knows nothing of an slo
    return SERVICE_COSTS[field]


def _cancels(at: dict[str, At]) -> dict[int, bool]:
    """What workers are told of `at`."""
    return {index: differs.cancel for index, differs in enumerate(at.values()) if differs.cancel is not None}


def _routed(at: dict[str, At]) -> list[tuple[str, float | None, str | None]]:
    """What the edge's file holds of `at`."""
    return [(prefix, differs.deadline_s, differs.criticality) for prefix, differs in at.items()]


def _env_told(before: dict[str, str], after: dict[str, str]) -> str:
    """Names alone: values may be secrets."""
    words = [f"{name} added" for name in after if name not in before]
    words += [f"{name} removed" for name in before if name not in after]
    words += [f"{name} changed" for name in after if name in before and before[name] != after[name]]
    return ", ".join(words)


def _scale_told(before: int | ReplicaRange | None, after: int | ReplicaRange | None) -> str:
    if isinstance(after, ReplicaRange):
        return "their number follows the load"
    if not isinstance(before, int) or after is None:
        return Cost.SCALE.value
    count = abs(after - before)
    return f"{count} {'is' if count == 1 else 'are'} {'added' if after > before else 'drained and stopped'}"


def _shown(value: Any, field: str = "") -> str:
    if value is None:
        return "shared cores" if field == "replicas" else "unset"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, ReplicaRange):
        return f"{value.min}–{value.max}"
    if field in ("at", "cache") and isinstance(value, dict):
        return "; ".join(_told_of(path, told) for path, told in value.items()) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} = {inner}" for key, inner in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if field.endswith("_per_s"):
        return spell_rate(value)
    if field.endswith("_s"):
        return format_duration(value)
    return format_bytes(value) if field.endswith("_bytes") else str(value)


def _told_of(path: str, told: At | Responses) -> str:
    """A route below `at` or `cache`, with what is declared of it."""
    keys = [
        f"{key_of(field, info)} {_shown(value, field)}"
        for field, info in type(told).model_fields.items()
        if (value := getattr(told, field)) is not None and value != info.default
    ]
    return f"{path} {', '.join(keys)}".strip()


def _names(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*before, *after)))
