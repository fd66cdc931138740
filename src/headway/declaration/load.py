"""One call from what a user typed to a checked, complete `System`, or to everything that is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.declaration import sources
from headway.declaration.advise import advise
from headway.declaration.check import check
from headway.declaration.complete import complete
from headway.declaration.keys import path_text
from headway.declaration.paths import absolute, check_paths
from headway.declaration.translate import translate
from headway.errors import DeclarationError, Problem
from headway.model.declared import System


@dataclass(frozen=True, slots=True)
class Loaded:
    """A declaration that can be used.

    `root` is its folder, `source` its name for people, `file` its path (None for `module:app`), `warnings` what works
    but surprises.
    """

    system: System
    root: Path
    source: str
    warnings: tuple[Problem, ...]
    file: Path | None = None


def load(
    target: str | None,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    overlay: str | None = None,
    default_python: str | None = None,
) -> Loaded:
    """Load what `target` names: a folder, a file, `module:app`, or (None) the declaration around `cwd`.

    DeclarationError carries every problem at once; HeadwayError says that there is no declaration. `overlay` lays
    `headway.NAME.toml` over it. `default_python` serves apps that name no interpreter and have no virtual environment
    (default: the one that runs this).
    """
    cwd = cwd.absolute()
    source = sources.find(target, cwd=cwd)
    if overlay is not None:
        source = sources.overlay(source, overlay, cwd=cwd)
    read = translate(source.tables, default_name=sources.system_name(source.root))
    problems = (
        *read.problems,
        *check(read.system, environment=environment, broken=read.broken),
        *check_paths(read.system, source.root, read.broken),
    )
    if problems:
        raise DeclarationError(source.display, in_order(problems, source.tables))
    system = complete(read.system)
    warnings = (*source.warnings, *in_order(advise(system), source.tables))
    return Loaded(
        absolute(system, source.root, default_python or sys.executable),
        source.root,
        source.display,
        warnings,
        source.file,
    )


def in_order(problems: Iterable[Problem], tables: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Problems in the order of the file, each said once."""
    places: dict[str, int] = {}

    def number(value: Any, path: tuple[str | int, ...]) -> None:
        places[path_text(path)] = len(places)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            number(inner, (*path, key))

    number(dict(tables), ())

    def place(problem: Problem) -> int:
        path = problem.path
        while path and path not in places:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return places[path] if path else len(places)

    return tuple(sorted(dict.fromkeys(problems), key=place))


def report(error: DeclarationError) -> str:
    """The error as a person reads it: one line a problem, its hint below."""
    lines = [error.message]
    for problem in error.problems:
        lines.append(f"  {problem.path}: {problem.message}" if problem.path else f"  {problem.message}")
        if problem.hint:
            lines.append(f"    hint: {problem.hint}")
    return "\n".join(lines)
