"""Reads the Python source of a folder into syntax trees, to find the app in it without running a line of it.

Bounded: a folder is somebody's home directory by mistake sooner or later.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FILES_MAX = 3000
FILE_MAX_BYTES = 2**20
TOTAL_MAX_BYTES = 6 * 2**20  # some seconds of parsing
DEPTH_MAX = 6
ENTRIES_MAX = 50_000

_SKIPPED = frozenset(
    [
        "__pycache__",
        "node_modules",
        "venv",
        "env",
        "virtualenv",
        "site-packages",
        "tests",
        "test",
        "testing",
        "migrations",
        "docs",
        "build",
        "dist",
    ]
)
_SKIPPED_FILES = re.compile(r"test_.*\.py|.*_test\.py|conftest\.py|setup\.py|noxfile\.py|.*\.egg-info")


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: where it is, how it is imported, and what its names mean."""

    file: str  # "src/shop/web.py"
    folder: str  # what must be on the import path: "src"
    name: str  # "shop.web"
    tree: ast.Module
    names: dict[str, str]  # local name -> dotted name of what was imported under it

    def where(self, node: ast.AST) -> str:
        """`file:line` of a node."""
        return f"{self.file}:{getattr(node, 'lineno', 1)}"

    def qualified(self, node: ast.AST) -> str:
        """Dotted name of what an expression names ("fastapi.FastAPI"), empty where it is no plain name."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            return ".".join((self.names.get(node.id, node.id), *reversed(parts)))
        # A call in the middle (`Config().make_wsgi_app`) leaves the method's name alone.
        return ".".join(("", *reversed(parts))) if parts else ""


@dataclass(frozen=True, slots=True)
class SourceTree:
    """All that was read of a folder. `truncated`: there was more than the bounds allow."""

    modules: tuple[Module, ...]
    schemas: tuple[tuple[str, str], ...]  # path and text of every schema.sql
    dependencies: str  # text of requirements*.txt and pyproject.toml
    truncated: bool = False


def read_tree(folder: Path) -> SourceTree:
    """Read every Python file that can hold an app; what cannot be read or parsed is passed over."""
    files, truncated = _files(folder)
    parsed: list[tuple[PurePosixPath, ast.Module]] = []
    schemas: list[tuple[str, str]] = []
    dependencies: list[str] = []
    total_bytes = 0
    for relative in files:
        text = _text(folder / relative)
        if text is None:
            continue
        total_bytes += len(text)
        if total_bytes > TOTAL_MAX_BYTES:
            truncated = True
            break
        if relative.name == "schema.sql":
            schemas.append((str(relative), text))
        elif relative.suffix != ".py":
            dependencies.append(text)
        elif (tree := _parse(text)) is not None:
            parsed.append((relative, tree))
    packages = {relative.parent for relative, _ in parsed if relative.name == "__init__.py"}
    imported = {name for _, tree in parsed for name in _imported_tops(tree)}
    modules = []
    for relative, tree in parsed:
        root = _import_root(relative, packages, imported)
        parts = relative.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts and all(part.isidentifier() for part in parts):
            modules.append(Module(str(relative), str(root), ".".join(parts), tree, _names(tree, parts, relative)))
    return SourceTree(tuple(modules), tuple(schemas), "\n".join(dependencies), truncated)


def _files(folder: Path) -> tuple[list[PurePosixPath], bool]:
    """Files of interest, shallow ones first."""
    found: list[PurePosixPath] = []
    seen = 0
    for place, folders, names in os.walk(folder):
        here = PurePosixPath(Path(place).relative_to(folder).as_posix())
        seen += len(folders) + len(names)
        deep = len(here.parts) >= DEPTH_MAX
        folders[:] = [] if deep else sorted(name for name in folders if is_entered(Path(place), name))
        found += [here / name for name in sorted(names) if _of_interest(name)]
        if len(found) >= FILES_MAX or seen >= ENTRIES_MAX:
            return sorted(found[:FILES_MAX], key=lambda path: (len(path.parts), str(path))), True
    return sorted(found, key=lambda path: (len(path.parts), str(path))), False


def is_entered(place: Path, name: str) -> bool:
    """Whether source of an app may lie in the folder `name` of `place`: no hidden one, no environment, no tests."""
    return not name.startswith(".") and name not in _SKIPPED and not (place / name / "pyvenv.cfg").exists()


def _of_interest(name: str) -> bool:
    if name.endswith(".py"):
        return not _SKIPPED_FILES.fullmatch(name)
    return name in ("schema.sql", "pyproject.toml", "Pipfile") or bool(re.fullmatch(r"requirements.*\.(txt|in)", name))


def _text(path: Path) -> str | None:
    try:
        if path.stat().st_size > FILE_MAX_BYTES or not path.is_file():
            return None
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return None


def _parse(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the app's own invalid escapes are not ours to tell
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _imported_tops(tree: ast.Module) -> Iterator[str]:
    """First words of what is imported absolutely, and of Django's settings module, which is named in a text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and len(node.args) == 2:
            name, value = (arg.value if isinstance(arg, ast.Constant) else None for arg in node.args)
            if name == "DJANGO_SETTINGS_MODULE" and isinstance(value, str):
                yield value.partition(".")[0]


def _import_root(file: PurePosixPath, packages: set[PurePosixPath], imported: set[str]) -> PurePosixPath:
    """The folder to put on the import path: above the outermost package that the file lies in.

    A folder without `__init__.py` is a package too when the project itself imports it by its name.
    """
    root = file.parent
    while root.name and (root in packages or (root.name in imported and root.name != "src")):
        root = root.parent
    return root


def _names(tree: ast.Module, parts: tuple[str, ...], file: PurePosixPath) -> dict[str, str]:
    package = parts if file.name == "__init__.py" else parts[:-1]
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*above, *([node.module] if node.module else [])))
            for alias in node.names:
                names[alias.asname or alias.name] = f"{origin}.{alias.name}" if origin else alias.name
    return names
