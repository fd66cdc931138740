"""A declaration's tables become a `System`, or sentences about every key that is wrong.

One wrong value must not hide the next: what is wrong is reported, taken out and remembered as *broken*, and the rest is
read on, so that the later checks see everything that could be understood.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from headway.declaration.keys import (
    SECTIONS,
    SYSTEM_KEYS,
    Path,
    Table,
    drop,
    fields_of,
    matches,
    path_text,
    section_of,
)
from headway.errors import Problem
from headway.model.declared import RESERVED, System

# Words that people write out of habit -> what it is here.
_HABITS = {
    "workers": "replicas = 2",
    "processes": "replicas = 2",
    "instances": "replicas = 2",
    "min_replicas": "replicas = { min = 2, max = 16 }",
    "max_replicas": "replicas = { min = 2, max = 16 }",
    "autoscale": "replicas = { min = 2, max = 16 }",
    "priority": 'criticality = "sheddable"',
    "latency": 'slo = "250ms"',
    "environment": 'env = { NAME = "value" }',
    "cmd": "command = [...]",
    "target": 'app = "module:app"',
    "module": 'app = "module:app"',
    "timeout": 'deadline = "30s"',
    "request_timeout": 'deadline = "30s"',
    "listen": 'bind = ["127.0.0.1:8000"] in [edge]',
    "port": 'bind = ["127.0.0.1:8000"] in [edge]',
    "host": 'bind = ["127.0.0.1:8000"] in [edge]',
    "bind": 'bind = ["127.0.0.1:8000"] in [edge]',
    "tls": 'tls = { certificate = "…" } in [edge]',
    "ssl": 'tls = { certificate = "…" } in [edge]',
    "path": 'routes = ["/"]',
    "paths": 'routes = ["/"]',
    "hosts": 'routes = ["api.example.com"]',
    "domains": 'routes = ["api.example.com"]',
    "domain": 'routes = ["api.example.com"]',
    "cwd": 'folder = "…"',
    "directory": 'folder = "…"',
    "memory": 'memory_max = "512MiB"',
    "healthcheck": 'health = "/health"',
    "health_check": 'health = "/health"',
    "depends_on": 'uses = ["main"]',
    "concurrency": "limit = 40",
}


@dataclass(frozen=True, slots=True)
class Translated:
    """What could be understood, what is wrong, and the paths of what was taken out because of that."""

    system: System
    problems: tuple[Problem, ...]
    broken: frozenset[str]


def translate(tables: Mapping[str, Any], *, default_name: str) -> Translated:
    """Read the tables; never raises for what a user wrote."""
    document = copy.deepcopy(dict(tables))
    problems: list[Problem] = []
    broken: set[str] = set()
    _refuse_reserved(document, problems, broken)
    _refuse_unknown(document, problems, broken)
    head = document.pop("system", {})
    if isinstance(head, dict):
        document |= {"name": default_name} | {key: head[key] for key in SYSTEM_KEYS if key in head}
    else:
        document["name"] = default_name
        problems.append(
            Problem("system", f"must be a table, not {_kind(head)}", 'write [system] and name = "shop" below')
        )
        broken.add("system")
    system = _validate(document, problems, broken, default_name)
    return Translated(system, tuple(problems), frozenset(broken))


def _refuse_reserved(document: Table, problems: list[Problem], broken: set[str]) -> None:
    for pattern, sentence in RESERVED.items():
        for path, value in list(matches(document, pattern)):
            problems.append(Problem(path_text(path), sentence, _reserved_hint(path)))
            drop(document, path)
            broken.add(path_text(path))
            broken.update(path_text((*path, name)) for name in (value if isinstance(value, dict) else ()))


def _reserved_hint(path: Path) -> str:
    if path[0] == "databases":
        return f"take it out for now: [databases.{path[1]}] is then one plain PostgreSQL"
    return "take it out for now"


def _refuse_unknown(document: Table, problems: list[Problem], broken: set[str]) -> None:
    _refuse_keys(document, (), sorted({section.partition(".")[0] for section in SECTIONS}), problems, broken)
    for section in SECTIONS:
        for path, table in list(matches(document, section)):
            if isinstance(table, dict):
                _refuse_keys(table, path, list(fields_of(section)), problems, broken)


def _refuse_keys(table: Table, path: Path, allowed: list[str], problems: list[Problem], broken: set[str]) -> None:
    for key in [key for key in table if key not in allowed]:
        problems.append(Problem(path_text((*path, key)), "unknown key", _unknown_hint(key, path, allowed)))
        broken.add(path_text((*path, key)))
        del table[key]


def _unknown_hint(key: str, path: Path, allowed: list[str]) -> str:
    keys = f"keys here: {', '.join(allowed)}"
    if not path and key in (*SYSTEM_KEYS, *fields_of("edge"), *fields_of("services.*")):
        sections = {**dict.fromkeys(SYSTEM_KEYS, "[system]"), **dict.fromkeys(fields_of("edge"), "[edge]")}
        return f"it belongs under {sections.get(key, '[services.NAME]')}; {keys}"
    close = difflib.get_close_matches(key.lower().replace("-", "_"), allowed, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`? {keys}"
    if key in _HABITS and path:
        return f"did you mean {_HABITS[key]}? {keys}"
    return keys


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean "main"?` for a name that is close to a known one, else empty."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""


def _validate(document: Table, problems: list[Problem], broken: set[str], default_name: str) -> System:
    # Every round takes at least one value out, so that the loop ends; the bound guards against a mistake in that.
    for _ in range(100):
        try:
            return System.model_validate(document)
        except ValidationError as error:
            details = error.errors(include_url=False)
            for detail in details:
                # What was taken out in an earlier round is missing now, and was told then.
                if path_text(_user_path(tuple(detail["loc"]))) not in broken:
                    problems.append(_problem(detail))
            taken: set[Path] = set()
            for detail in reversed(details):
                loc = tuple(detail["loc"])
                wrong = loc[:-1] if detail["type"] == "missing" or loc[-1] == "[key]" else loc
                if wrong not in taken:  # two keys that are missing are one table to take out
                    taken.add(wrong)
                    broken.add(path_text(_user_path(drop(document, wrong) or wrong)))
                broken.add(path_text(_user_path(loc)))
            document.setdefault("name", default_name)
    return System(name=default_name)


def _user_path(loc: Path) -> Path:
    """Where the user wrote it: what is not in a table of its own lies in [system]."""
    return ("system", *loc) if loc and loc[0] in SYSTEM_KEYS else loc


def _problem(detail: ErrorDetails) -> Problem:
    loc = tuple(detail["loc"])
    path = _user_path(loc[:-1] if loc[-1] == "[key]" else loc)
    message, hint = _sentence(detail, path)
    return Problem(path_text(path), message, hint or _example_hint(path))


def _example_hint(path: Path) -> str:
    """`write it like replicas = 2`, from the field that the path lies in."""
    for length in range(len(path) - 1, 0, -1):
        section, key = section_of(path[:length]), path[length]
        if section is not None and isinstance(key, str) and key in fields_of(section):
            examples = fields_of(section)[key].examples
            return f"write it like {key} = {examples[0]}" if examples else ""
    return ""


def _sentence(detail: ErrorDetails, path: Path) -> tuple[str, str]:
    """What is wrong and, where the example of the key does not say it, what to write."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    shown = _shown(value, path)
    if kind == "value_error":
        what, _, instead = str(context["error"]).partition("; ")
        return what, instead
    if kind == "missing":
        return "is missing", ""
    if kind == "string_pattern_mismatch" and path[-1] == "health":
        return f'{shown} must begin with "/"', ""
    if kind == "string_pattern_mismatch":
        name = path[-1] if detail["loc"][-1] == "[key]" else value
        marks = "digits and _" if path[-2:-1] == ("servers",) else "digits, - and _"
        rule = f"use small letters, {marks}, at most 31, the first a letter"
        return f'"{name}" cannot be a name here', rule
    if kind == "string_type" and "env" in path and isinstance(value, bool):
        return "true and false are spelled differently by every app", f'write it as text, like {path[-1]} = "1"'
    if kind == "string_type" and len(path) == 4 and path[2] == "static":
        return f"must be the name of a folder, not {_kind(value)}", ""
    sentences = {
        "string_type": f"must be text in quotes, not {_kind(value)}",
        "int_type": f"must be a whole number, not {_kind(value)}",
        "int_parsing": f"must be a whole number, not {shown}",
        "int_from_float": f"must be a whole number, not {shown}",
        "bool_type": f"must be true or false, not {_kind(value)}",
        "bool_parsing": f"must be true or false, not {shown}",
        "tuple_type": f"must be a list, not {_kind(value)}",
        "dict_type": f"must be a table, not {_kind(value)}",
        "model_type": f"must be a table, not {_kind(value)}",
        "greater_than_equal": f"must be at least {context.get('ge')}, not {shown}",
        "less_than_equal": f"must be at most {context.get('le')}, not {shown}",
        "too_short": "must not be empty",
        "literal_error": f"must be {context.get('expected', '')}, not {shown}".replace("'", '"'),
    }
    hint = f"write [{path_text(path)}] and its keys below" if kind == "model_type" else ""
    return sentences.get(kind, detail["msg"][:1].lower() + detail["msg"][1:]), hint


def _shown(value: object, path: Path) -> str:
    """A value in a message: short, as TOML writes it, and never one that may be a secret."""
    if "env" in path or path[-1] == "url" or isinstance(value, dict | list | tuple):
        return _kind(value)
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    text = text if len(text) <= 40 else f"{text[:40]}…"
    return f'"{text}"' if isinstance(value, str) else text


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    kinds = {str: "text", int: "a number", float: "a number", dict: "a table", list: "a list", tuple: "a list"}
    return kinds.get(type(value), "a date")
