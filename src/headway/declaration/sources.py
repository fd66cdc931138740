"""Finds the declaration a user means and reads its tables: a folder, a file, `module:app`, or what lies around here.

Everything is read into memory once and bounded in size; nothing is interpreted beyond TOML.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.errors import DeclarationError, HeadwayError, MachineError, Problem

FILE = "headway.toml"
PYPROJECT = "pyproject.toml"
SIZE_MAX_BYTES = 2**20

_NOTHING_HINT = "run `headway init` to write one, or `headway up module:app` to serve an app without"


@dataclass(frozen=True, slots=True)
class Source:
    """A declaration as tables: where it lies, and what is odd about finding it there."""

    tables: dict[str, Any]
    root: Path
    display: str
    file: Path | None
    warnings: tuple[Problem, ...] = ()


def find(target: str | None, *, cwd: Path) -> Source:
    """The declaration that `target` names; HeadwayError with what to do when there is none."""
    if target is None:
        return _search(cwd)
    path = Path(target).expanduser()
    path = path if path.is_absolute() else cwd / path
    if path.is_dir():
        found = _in_folder(path, cwd)
        if found is None:
            raise HeadwayError(
                f"{target} holds neither {FILE} nor a {PYPROJECT} with [tool.headway]",
                hint=f"run `headway init {shlex.quote(target)}` to write one",
            )
        return found
    if path.is_file():
        return _from_file(path, cwd)
    if ":" in target and "/" not in target.partition(":")[0] and not target.endswith(".toml"):
        return _from_app(target, cwd)
    raise HeadwayError(f"{target} is no file or folder here", hint=_hint_for_missing(target))


def overlay(source: Source, name: str, *, cwd: Path) -> Source:
    """The declaration with `headway.NAME.toml` laid over it: tables merge, everything else is replaced."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise HeadwayError(
            f'"{name}" is not a name of an environment', hint="use letters and digits, like `--env production`"
        )
    if source.file is None:
        raise HeadwayError(
            f"--env {name} needs a declaration to lie over, and {source.display} has none",
            hint="run `headway init` to write one",
        )
    path = source.root / f"headway.{name}.toml"
    if not path.is_file():
        others = sorted(p.name.split(".")[1] for p in source.root.glob("headway.*.toml"))
        have = f", or use one that exists: {', '.join(f'--env {other}' for other in others)}" if others else ""
        raise HeadwayError(
            f"--env {name} was asked for, but {path.name} is missing in {source.root}",
            hint=f"write {path.name} with the keys that differ{have}",
        )
    display = _display(path, cwd)
    over = _read(path, display)
    return Source(
        merge(source.tables, over), source.root, f"{source.display} + {path.name}", source.file, source.warnings
    )


def merge(below: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of two tables; lists and values are replaced, tables are merged."""
    merged = dict(below)
    for key, value in over.items():
        lower = merged.get(key)
        merged[key] = merge(lower, value) if isinstance(lower, dict) and isinstance(value, dict) else value
    return merged


def declared_in(folder: Path) -> Path | None:
    """The file of this very folder that declares a system, if any."""
    found = _in_folder(folder, folder)
    return found.file if found else None


def system_name(folder: Path) -> str:
    """A system's name made from its folder's: `My Shop` -> `my-shop`."""
    words = re.sub(r"[^a-z0-9_]+", "-", folder.name.lower()).strip("-_")
    return re.sub(r"^[^a-z]+", "", words)[:31].rstrip("-_") or "app"


def _search(cwd: Path) -> Source:
    for folder in (cwd, *cwd.parents):
        found = _in_folder(folder, cwd)
        if found is not None:
            return found
    raise HeadwayError(f"no {FILE} here or in a folder above", hint=_NOTHING_HINT)


def _in_folder(folder: Path, cwd: Path) -> Source | None:
    own, project = folder / FILE, folder / PYPROJECT
    if own.is_file():
        found = _from_file(own, cwd)
        if project.is_file() and "[tool.headway" in _text(project, _display(project, cwd)):
            twice = Problem(
                PYPROJECT, f"its [tool.headway] is not used, because {FILE} is there", "delete one of the two"
            )
            return Source(found.tables, found.root, found.display, found.file, (twice,))
        return found
    if project.is_file() and "headway" in _text(project, _display(project, cwd)):
        tables = _read(project, _display(project, cwd))
        if isinstance(tables.get("tool"), dict) and "headway" in tables["tool"]:
            return _from_file(project, cwd)
    return None


def _from_file(path: Path, cwd: Path) -> Source:
    display = _display(path, cwd)
    tables = _read(path, display)
    root = Path(path.parent.absolute())
    if path.name != PYPROJECT:
        return Source(tables, root, display, path.absolute())
    tool = tables.get("tool")
    section = tool.get("headway") if isinstance(tool, dict) else None
    if not isinstance(section, dict):
        raise HeadwayError(f"{display} has no [tool.headway]", hint=_NOTHING_HINT)
    return Source(section, root, f"{display} [tool.headway]", path.absolute())


def _from_app(target: str, cwd: Path) -> Source:
    tables = {"services": {"web": {"app": target, "routes": ["/"]}}}
    return Source(tables, cwd.absolute(), target, None)


def _hint_for_missing(target: str) -> str:
    file, colon, attribute = target.partition(":")
    if file.endswith(".py") or colon:
        module = file.removesuffix(".py").strip("./").replace("/", ".")
        return f"an app is named as module:attribute, like `headway up {module or 'shop.web'}:{attribute or 'app'}`"
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", target) and not target.endswith(".toml"):
        return f"to serve an app, name its attribute too, like `headway up {target}:app`; else give a folder or a file"
    return "give a folder, a headway.toml, or an app as module:app"


def _display(path: Path, cwd: Path) -> str:
    """The path as seen from here, when it lies here."""
    try:
        return str(path.absolute().relative_to(cwd.absolute()))
    except ValueError:
        return str(path.absolute())


def _text(path: Path, display: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise MachineError(
            f"{display} cannot be read: {error.strerror}", hint="check its owner and permissions with `ls -l`"
        ) from error
    if len(data) > SIZE_MAX_BYTES:
        raise HeadwayError(
            f"{display} is larger than 1 MiB", hint="a declaration is a few lines; is this the right file?"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem(f"line {line}", "is not UTF-8 text", "save the file as UTF-8")
        raise DeclarationError(display, (problem,)) from None


def _read(path: Path, display: str) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path, display).replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(display, (_syntax_problem(str(error)),)) from None


# What the TOML parser says -> what most often is the reason.
_SYNTAX_HINTS = {
    "Invalid value": 'text needs quotes, like name = "shop"; true and false are written small',
    "Cannot overwrite a value": "this key is written twice in the same table; keep one",
    "Cannot declare": "this [table] is written twice; put its keys together",
    "Cannot mutate immutable": "this table was closed with { } above; add the key there",
    "Expected '=' after a key": "a line is `key = value`; a key with other letters than a-z, 0-9, - and _ needs quotes",
    "Expected newline or end": "one key a line; lists go in [ ], text in quotes",
    "Unclosed": "a bracket or brace is never closed",
    "Unescaped '\\'": "write a backslash twice, or use 'single quotes'",
    "Illegal character": "a text in quotes ends on its own line; for long ones use three quotes",
}

_QUOTED = r"'([^']*)'"


def _syntax_problem(message: str) -> Problem:
    match = re.fullmatch(r"(.*?) \(at (?:line (\d+), column (\d+)|(end of document))\)", message, re.DOTALL)
    what, line, column = (match[1], match[2], match[3]) if match else (message, None, None)
    if twice := re.fullmatch(r"Cannot declare \((.*)\) twice", what):  # the parser shows a Python tuple
        what = f"cannot declare [{'.'.join(re.findall(_QUOTED, twice[1]))}] twice"
    where = f"line {line}, column {column}" if line else "end of file"
    hint = next(
        (hint for begin, hint in _SYNTAX_HINTS.items() if message.startswith(begin)), "compare it with https://toml.io"
    )
    return Problem(where, f"this is not TOML: {what[:1].lower()}{what[1:]}", hint)
