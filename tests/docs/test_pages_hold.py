"""What can be held against the documentation without running a system: links, declarations, commands, the drawing."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
from docs_pages import GUIDES, ROOT, Block, anchors, blocks, command_lines, links, name_of, pages

from headway.cli.main import cli
from headway.declaration.load import load

PAGES = pages()
# The reference is generated from the model, and its examples are tested there.
WRITTEN = [page for page in PAGES if page.parent.name != "reference"]
DECLARATIONS = [block for page in WRITTEN for block in blocks(page) if block.language == "toml"]
FILE_KEYS = ("certificate", "key", "schema", "alembic", "django")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: {name_of(target)} has no such heading"


def _where(block: Block) -> str:
    return f"{name_of(block.page)}:{block.line}"


def _as_whole(text: str) -> str:
    """A declaration that shows one section only, with the service that every declaration needs."""
    return text if "[services." in text else f'{text}\n[services.web]\napp = "hello:app"\n'


@pytest.mark.parametrize("block", DECLARATIONS, ids=_where)
def test_every_declaration_loads(block: Block, tmp_path: Path) -> None:
    tables = tomllib.loads(block.text)
    file = tmp_path / "headway.toml"
    file.write_text(_as_whole(block.text).replace('"/etc/', '"etc/'))
    named = re.findall(rf'\b(?:{"|".join(FILE_KEYS)}) = "([^"]+)"', file.read_text())
    for name in [*named, *re.findall(r"{file\.([^}]+)}", file.read_text())]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for database in tables.get("databases", {}).values():
        if folder := database.get("migrations", {}).get("sql"):
            (tmp_path / folder).mkdir()
    for service in tables.get("services", {}).values():
        for folder in service.get("static", {}).values():
            (tmp_path / folder).mkdir()
    names = re.findall(r"{env\.(\w+)}", block.text)
    environment = {name: f"postgresql://user@127.0.0.1:5432/{name.lower()}" for name in names}
    loaded = load(str(file), cwd=tmp_path, environment=environment)
    assert loaded.warnings == ()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_is_one(page: Path) -> None:
    for number, line in command_lines(page):
        words = shlex.split(line.replace("$rate", "100"), comments=True)
        words = words[1 : next((at for at, word in enumerate(words) if re.match(r"[12]?>|<", word)), None)]
        assert words[0] in cli.commands, f"{name_of(page)}:{number}: {line}"
        try:
            cli.commands[words[0]].make_context(words[0], words[1:])
        except click.UsageError as error:
            raise AssertionError(f"{name_of(page)}:{number}: {line}: {error.format_message()}") from None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_named_in_a_sentence_exists(page: Path) -> None:
    for name in re.findall(r"`headway ([a-z]+)", page.read_text()):
        assert name in cli.commands, f"headway {name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_reader_is_told_the_name_of_every_file(page: Path) -> None:
    lines = page.read_text().splitlines()
    for block in blocks(page):
        if block.name and block.name != "layers":
            assert f"`{block.name}`" in "".join(lines[block.line - 5 : block.line - 2]), f"{_where(block)} {block.name}"


def test_the_commands_are_looked_for_where_they_are() -> None:
    found = [line for page in GUIDES for _number, line in command_lines(page)]
    assert any(line.startswith("headway load ") for line in found)
    assert any(line.startswith("headway explain ") for line in found)
    assert len(found) > 30


def test_the_layers_are_drawn_as_they_are_contracted() -> None:
    drawing = next(block for block in blocks(ROOT / "ARCHITECTURE.md") if block.name == "layers")
    drawn = [re.split(r"\s{2,}", line)[0] for line in drawing.text.splitlines()]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert drawn == [layer.replace("headway.", "") for layer in layers]


def test_every_package_has_its_place_in_the_drawing() -> None:
    drawing = next(block for block in blocks(ROOT / "ARCHITECTURE.md") if block.name == "layers")
    packages = {path.parent.name for path in (ROOT / "src/headway").glob("*/__init__.py")}
    drawn = set(re.findall(r"\w+", " ".join(re.split(r"\s{2,}", line)[0] for line in drawing.text.splitlines())))
    assert packages - drawn == {"worker"}, "outside the layers stands the worker alone"


def test_the_map_names_files_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.partition("## Where do I find")[2].partition("\n## ")[0]
    for line in section.splitlines():
        folder = ""
        for name in re.findall(r"`((?:\w+/)?\w+\.py)`", line):
            folder = name.partition("/")[0] if "/" in name else folder
            path = ROOT / "src/headway" / (name if "/" in name or not folder else f"{folder}/{name}")
            assert path.exists(), f"{line}: {path}"


def test_only_text_of_the_project_is_in_the_pages() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(?:work|tmp|root|home/(?!you))\b/?\w", page.read_text()), name_of(page)
