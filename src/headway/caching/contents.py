"""What a cache holds, seen and emptied from outside the app: counts of its processes, single values, whole flushes.

A shared server may hold many keys that are none of ours. They are gone through in bounded steps, for a bounded time,
and what was not reached is said.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import hiredis

from headway.caching import totals
from headway.caching.asking import Asking
from headway.caching.blob import FORMAT, GENERATION_BYTES, HEADER, TAGS_MAX
from headway.caching.scripts import COUNTER, void_tag
from headway.errors import HeadwayError

_STEP = 1000  # keys that the server looks at in one step: well below a millisecond of it
_LOOK_S = 5.0
_FLUSH_S = 120.0
_TAGS_KNOWN_MAX = 10_000
FOUND_MAX = 50


@dataclass(frozen=True, slots=True)
class Value:
    """One stored value. Ages and times of its own by the clock of who stored it."""

    key: str
    bytes: int
    age_s: float | None  # None: it is none of ours, or of another version
    ttl_left_s: float | None  # fresh for so long
    kept_s: float  # the server forgets it then
    load_ms: int | None
    is_current: bool  # its generations are those of now
    tags: tuple[str, ...]  # that still hold
    tags_passed: int  # invalidated since, or forgotten
    lease_s: float | None  # somebody loads it now, for so long at most


def stats(asking: Asking, prefix: str) -> dict[str, Any]:
    """Server and functions of a cache."""
    info = asking.info()
    processes, complete = counts_of_processes(asking, prefix)
    functions = totals.add_up(processes.values())
    own = functions.pop(totals.WHOLE, {})
    whole = totals.overall(functions)
    return {
        "prefix": prefix,
        "server": server_told(info),
        "processes": len(processes),
        "complete": complete,
        "total": totals.told({**own, **whole}),
        "functions": {name: totals.told(counts) for name, counts in functions.items()},
    }


def counts_of_processes(asking: Asking, prefix: str) -> tuple[dict[str, dict[str, str]], bool]:
    """What each process left of its counts, by its place; and whether all were reached."""
    processes = {}
    walk = _Walk(asking, f"{prefix}s:*", _LOOK_S)
    for keys in walk:
        for key, reply in zip(keys, asking.ask_all([("HGETALL", key) for key in keys]), strict=True):
            if isinstance(reply, dict):
                processes[_text(key)] = {_text(field): _text(value) for field, value in reply.items()}
    return processes, walk.complete


def server_told(info: dict[str, str]) -> dict[str, Any]:
    """What `INFO` says that matters of a cache."""
    keys = sum(int(found[1]) for name, text in info.items() if name.startswith("db") and (found := _KEYS.match(text)))
    return {
        "name": info.get("server_name", "redis"),
        "version": info.get("valkey_version") or info.get("redis_version", ""),
        "used_bytes": int(info.get("used_memory", 0)),
        "rss_bytes": int(info.get("used_memory_rss", 0)),
        "max_bytes": int(info.get("maxmemory", 0)) or None,
        "evicted": int(info.get("evicted_keys", 0)),
        "expired": int(info.get("expired_keys", 0)),
        "keys": keys,
        "connected": int(info.get("connected_clients", 0)),
        "commands_per_s": int(info.get("instantaneous_ops_per_sec", 0)),
    }


_KEYS = re.compile(r"keys=(\d+)")


def flush(asking: Asking, prefix: str, tag: str | None) -> dict[str, Any]:
    """Make everything void, or what has a tag: at once, by a new generation; then give back the room.

    Values with a tag stay where they are and count as none; they go in time: nothing leads from a tag to its values.
    """
    if tag is None:
        asking.ask("SET", f"{prefix}g", secrets.token_bytes(GENERATION_BYTES))
    else:
        asking.ask(*void_tag(prefix.encode() + COUNTER, f"{prefix}t:{tag}".encode(), int(time.time() * 1000)))
    removed, complete = 0, True
    if tag is None:
        walk = _Walk(asking, f"{prefix}v:*", _FLUSH_S)
        for keys in walk:
            removed += int(asking.ask("UNLINK", *keys))
        complete = walk.complete
    return {"tag": tag, "removed": removed, "complete": complete}


def inspect(asking: Asking, prefix: str, text: str) -> dict[str, Any]:
    """Values whose key contains `text`, FOUND_MAX at most."""
    folder = f"{prefix}v:"
    walk = _Walk(asking, f"{folder}*{_literal(text)}*", _LOOK_S)
    keys: list[bytes] = []
    for found in walk:
        keys += found
        if len(keys) > FOUND_MAX:
            break
    keys = sorted(set(keys))
    generation = asking.ask("GET", f"{prefix}g")
    tags = _tags(asking, f"{prefix}t:") if keys else {}
    values = [_value(asking, prefix.encode(), key, generation, tags) for key in keys[:FOUND_MAX]]
    return {
        "values": [asdict(value) for value in values if value is not None],
        "complete": walk.complete and len(keys) <= FOUND_MAX,
    }


def _value(asking: Asking, prefix: bytes, key: bytes, generation: object, tags: dict[bytes, str]) -> Value | None:
    name = key[len(prefix) + 2 :]
    lease = prefix + b"l:" + name
    last = HEADER.size + TAGS_MAX * GENERATION_BYTES - 1
    commands = [("GETRANGE", key, 0, last), ("STRLEN", key), ("PTTL", key), ("PTTL", lease), ("TIME",)]
    head, size, kept_ms, lease_ms, now = asking.ask_all(commands)
    if any(isinstance(reply, hiredis.ReplyError) for reply in (head, size, kept_ms, now)) or kept_ms == -2:
        return None  # gone meanwhile, or no value at all
    now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
    shown = name.decode(errors="backslashreplace")
    lease_s = lease_ms / 1000 if isinstance(lease_ms, int) and lease_ms > 0 else None
    kept_s = max(0, kept_ms) / 1000
    if len(head) < HEADER.size or head[0] != FORMAT:
        return Value(shown, size, None, None, kept_s, None, False, (), 0, lease_s)
    _form, _flags, stored_ms, ttl_ms, load_ms, stored_generation, count = HEADER.unpack_from(head)
    of_tags = [head[at : at + GENERATION_BYTES] for at in range(HEADER.size, len(head), GENERATION_BYTES)][:count]
    held = tuple(tags[each] for each in of_tags if each in tags)
    return Value(
        key=shown,
        bytes=size,
        age_s=round((now_ms - stored_ms) / 1000, 3),
        ttl_left_s=round((ttl_ms - (now_ms - stored_ms)) / 1000, 3),
        kept_s=kept_s,
        load_ms=load_ms,
        is_current=stored_generation == generation and len(held) == count,
        tags=held,
        tags_passed=count - len(held),
        lease_s=lease_s,
    )


def _tags(asking: Asking, folder: str) -> dict[bytes, str]:
    """Tags by their generation of now."""
    found: dict[bytes, str] = {}
    for keys in _Walk(asking, f"{folder}*", _LOOK_S):
        for key, generation in zip(keys, asking.ask("MGET", *keys), strict=True):
            if isinstance(generation, bytes):
                found[generation] = key[len(folder.encode()) :].decode(errors="backslashreplace")
        if len(found) >= _TAGS_KNOWN_MAX:
            break
    return found


class _Walk:
    """The keys that match, in steps; `complete` says whether the end was reached within the time."""

    def __init__(self, asking: Asking, pattern: str, for_s: float) -> None:
        self._asking, self._pattern, self._for_s = asking, pattern, for_s
        self.complete = False

    def __iter__(self) -> Iterator[list[bytes]]:
        until_s = time.monotonic() + self._for_s
        cursor: bytes = b"0"
        while True:
            cursor, keys = self._asking.ask("SCAN", cursor, "MATCH", self._pattern, "COUNT", _STEP)
            if keys:
                yield keys
            if cursor in (b"0", 0):
                self.complete = True
                return
            if time.monotonic() > until_s:
                return


def _literal(text: str) -> str:
    """A text that a pattern finds as it is."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def check_tag(tag: str) -> str:
    """A tag as a person gives it. HeadwayError when it can be none."""
    if not tag:
        raise HeadwayError("a tag has at least one letter", hint="headway cache flush NAME empties the whole cache")
    return tag
