"""Reads the documentation as a program would: its code blocks, its commands with what they print, its links.

The words after a fence's language say what a block is for:

- ```` ```python hello.py ```` a file of the page's reader; ```` ```toml headway.toml ```` their declaration;
- ```` ```console ```` commands after `$ ` with their output below; `…` stands for output that is left out;
- ```` ```sh ```` commands that are not run here: they need root, another machine, minutes, or a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = tuple(sorted((ROOT / "docs/tutorial").glob("*.md")))
GUIDES = tuple(sorted((ROOT / "docs/guides").glob("*.md")))
EXAMPLES = (ROOT / "examples/shop-sharded/README.md", ROOT / "examples/shop-services/README.md")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, the word after it, its text, and its first line's number."""

    page: Path
    language: str
    name: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a `console` block and what the page says it prints."""

    command: str
    output: tuple[str, ...]
    line: int


def pages() -> tuple[Path, ...]:
    """Every page of the documentation, the generated ones included, and the examples' own."""
    return (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("examples/*/*.md")))


def name_of(page: Path) -> str:
    """A page's path as people write it."""
    return str(page.relative_to(ROOT))


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """The fenced blocks of a page."""
    found = []
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "fence" and token.map is not None:
            language, _, name = token.info.strip().partition(" ")
            found.append(Block(page, language, name.strip(), token.content, token.map[0] + 2))
    return tuple(found)


def steps(page: Path) -> tuple[Step, ...]:
    """The commands of a page's `console` blocks, in their order."""
    found: list[Step] = []
    for block in blocks(page):
        if block.language != "console":
            continue
        command, output, line = "", [], 0
        for number, text in enumerate(block.text.splitlines(), block.line):
            if text.startswith("$ "):
                if command:
                    found.append(Step(command, tuple(output), line))
                command, output, line = text[2:], [], number
            elif command.endswith("\\") and not output:
                command = f"{command}\n{text}"
            elif command:
                output.append(text)
        found.append(Step(command, tuple(output), line))
    return tuple(found)


def files(page: Path) -> dict[str, str]:
    """The files that a page has its reader write, by name. The last one of a name counts at the end of the page."""
    return {block.name: block.text for block in blocks(page) if block.name and block.language != "console"}


def links(page: Path) -> Iterator[str]:
    """Targets of a page's links and pictures."""
    for token in MarkdownIt().parse(page.read_text()):
        for child in token.children or ():
            for key in ("href", "src"):
                if key in child.attrs:
                    yield str(child.attrs[key])


def anchors(page: Path) -> frozenset[str]:
    """The names that a page's headings have in a link, as GitHub makes them."""
    tokens = MarkdownIt().parse(page.read_text())
    titles = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    return frozenset(re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles)


def command_lines(page: Path) -> Iterator[tuple[int, str]]:
    """Every `headway …` command line in a page's `console` and `sh` blocks, with its line number."""
    for block in blocks(page):
        if block.language not in ("console", "sh"):
            continue
        for number, text in enumerate(block.text.splitlines(), block.line):
            if block.language == "console" and not text.startswith("$ "):
                continue
            for part in re.split(r"\||&&|;|\$\(|\s&(?=\s|$)", text.removeprefix("$ ")):
                part = part.strip().strip(")").removeprefix("do ").strip()
                if part.startswith(("headway ", ".venv/bin/headway ")):
                    yield number, part
