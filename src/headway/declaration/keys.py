"""The tables of a declaration and the paths of their keys, named the same in every message.

A path is the tuple of keys and list positions that leads to a value; its text is what people see:
`services.web.routes[1]`, `services.web.static."/static"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from headway.model.declared import (
    At,
    Cache,
    Database,
    Declared,
    Edge,
    Migrations,
    ReplicaRange,
    Responses,
    Sentinel,
    Service,
    System,
    Tls,
)

Path = tuple[str | int, ...]
# Stands in a list where something wrong was taken out, so that what follows keeps its number.
TAKEN_OUT = "\0"
Table = dict[str, Any]

# Every table a user can write, in the order of the reference; `*` stands for one name (below `at` and `cache`: a path).
SECTIONS: dict[str, type[Declared] | None] = {
    "system": None,  # holds what System.model_fields has beside tables
    "edge": Edge,
    "edge.tls": Tls,
    "services.*": Service,
    "services.*.replicas": ReplicaRange,
    "services.*.at.*": At,
    "services.*.cache.*": Responses,
    "databases.*": Database,
    "databases.*.migrations": Migrations,
    "caches.*": Cache,
    "caches.*.sentinel": Sentinel,
}
SYSTEM_KEYS = ("name", "traces", "otlp")


def path_text(path: Iterable[str | int]) -> str:
    """The path as people read it; keys that are not bare words are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
            text += f".{word}" if text else word
    return text


def key_of(name: str, field: FieldInfo) -> str:
    """The key a user writes for a model's field."""
    return field.alias or name


def fields_of(section: str) -> dict[str, FieldInfo]:
    """Key -> field of one of SECTIONS."""
    model = SECTIONS[section]
    if model is None:
        return {name: System.model_fields[name] for name in SYSTEM_KEYS}
    return {key_of(name, field): field for name, field in model.model_fields.items()}


def section_of(path: Path) -> str | None:
    """The entry of SECTIONS whose table lies at this path."""
    for section in SECTIONS:
        words = section.split(".")
        if len(words) == len(path) and all(word in ("*", part) for word, part in zip(words, path, strict=True)):
            return section
    return None


def matches(document: Mapping[str, Any], pattern: str) -> Iterator[tuple[Path, Any]]:
    """Path and value of everything in the document that a dotted pattern (`services.*.at`) names."""

    def walk(value: Any, words: list[str], path: Path) -> Iterator[tuple[Path, Any]]:
        if not words:
            yield path, value
        elif isinstance(value, dict):
            for key in list(value) if words[0] == "*" else [words[0]] if words[0] in value else []:
                yield from walk(value[key], words[1:], (*path, key))

    return walk(document, pattern.split("."), ())


def drop(document: Table, path: Path) -> Path:
    """Take out the value at the path, or the innermost one that exists on the way to it; returns what was taken."""
    holder: Any = document
    for depth, part in enumerate(path):
        container = isinstance(holder, dict) or (isinstance(holder, list) and isinstance(part, int))
        last = depth == len(path) - 1
        inside = container and not last and _has(holder, part) and isinstance(holder[part], dict | list)
        if inside and _has(holder[part], path[depth + 1]):
            holder = holder[part]
        elif container and _has(holder, part):
            if isinstance(holder, list) and isinstance(part, int):
                holder[part] = TAKEN_OUT
            else:
                del holder[part]
            return path[: depth + 1]
        else:
            return path[:depth]
    return path


def _has(holder: Any, part: str | int) -> bool:
    if isinstance(holder, dict):
        return part in holder
    return isinstance(part, int) and 0 <= part < len(holder)
