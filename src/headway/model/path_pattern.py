"""Paths with places for what differs: `/products/{id}`, and `/files/{name:path}` for all that follows.

A pattern stands for whole paths, not for what lies below one. It is held against the path as the app gets it, with
percent-encoding resolved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import Formatter

_PLACE = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REST = ":path"
_EXAMPLE = 'write it like "/products/{id}"'


@dataclass(frozen=True, slots=True)
class PathPattern:
    """One pattern, and the names of its places in their order."""

    text: str
    names: tuple[str, ...]
    regex: re.Pattern[str]

    def match(self, path: str) -> dict[str, str] | None:
        """What stands in the places; None where the path is another one."""
        found = self.regex.fullmatch(path)
        return found.groupdict() if found is not None else None


def parse_pattern(text: str) -> PathPattern:
    """Read a pattern. ValueError "what is wrong; what to write"."""
    if not text.startswith("/"):
        raise ValueError(f'"{text}" must begin with "/"; write the path alone, without a host')
    if re.search(r"[?#]", text):
        raise ValueError(f'"{text}" has more than a path; write "{re.split("[?#]", text)[0]}"')
    if "*" in text:
        raise ValueError(f'"{text}" has a *, which says nothing here; write "{text.replace("*", "{rest:path}")}"')
    if "<" in text or "/:" in text:
        raise ValueError(f'"{text}" is written as other frameworks have it; {_EXAMPLE}')
    if "%" in text or re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError(f'"{text}" has percent-encoded letters or spaces; write them as the app sees them')
    names: list[str] = []
    parts: list[str] = []
    at = 0
    for place in _PLACE.finditer(text):
        name = place[1].removesuffix(_REST)
        takes_rest = place[1].endswith(_REST)
        if not _NAME.fullmatch(name):
            raise ValueError(f'"{text}": "{place[0]}" is no place with a name; {_EXAMPLE}')
        if name in names:
            raise ValueError(f'"{text}" has two places called "{name}"; give each a name of its own')
        if takes_rest and place.end() != len(text):
            raise ValueError(f'"{text}": "{place[0]}" takes all that follows; write it at the end')
        names.append(name)
        parts += [_literal(text, at, place.start()), f"(?P<{name}>{'.+' if takes_rest else '[^/]+'})"]
        at = place.end()
    parts.append(_literal(text, at, len(text)))
    return PathPattern(text, tuple(names), re.compile("".join(parts), re.DOTALL))


def _literal(text: str, start: int, end: int) -> str:
    part = text[start:end]
    if "{" in part or "}" in part:
        raise ValueError(f'"{text}" has a brace without its other; {_EXAMPLE}')
    if "//" in part:
        raise ValueError(f'"{text}" has an empty segment; {_EXAMPLE}')
    return re.escape(part)


def check_template(text: str, names: tuple[str, ...]) -> None:
    """A text with places of a pattern, `product:{id}`. ValueError "what is wrong; what to write"."""
    try:
        fields = [(name, more, turned) for _, name, more, turned in Formatter().parse(text) if name is not None]
    except ValueError:
        raise ValueError(f'"{text}" has a brace without its other; write it like "product:{{id}}"') from None
    for name, more, turned in fields:
        if name not in names or more or turned:
            known = ", ".join(f"{{{each}}}" for each in names) or "none"
            raise ValueError(f'"{text}": the path has no {{{name}}}; its places are: {known}')
    if not text.strip():
        raise ValueError('a tag has at least one letter; write it like "products"')
