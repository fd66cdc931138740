"""A folder to write a declaration and its files into."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import file_modes_bind

from headway.declaration.load import Loaded, load
from headway.errors import DeclarationError, Problem


@dataclass(frozen=True)
class Folder:
    """A folder of an app."""

    path: Path

    def write(self, name: str, text: str = "") -> Path:
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return place

    def load(self, toml: str, environment: Mapping[str, str] | None = None) -> Loaded:
        self.write("headway.toml", toml)
        return load(None, cwd=self.path, environment=environment or {})

    def problems(self, toml: str, environment: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
        with pytest.raises(DeclarationError) as caught:
            self.load(toml, environment)
        return caught.value.problems


@pytest.fixture
def modes_bind() -> Iterator[None]:
    """Lets the modes of files bind us, also as root."""
    with file_modes_bind():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    place = tmp_path / "shop"
    place.mkdir()
    return Folder(place)
