"""Reading on in files that grow and begin anew: each line once, whatever happens in between."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from headway.control import follow
from headway.control.follow import Position, end_of, read_on, read_position


class Reader:
    def __init__(self, path: Path, position: Position | None = None) -> None:
        self.path, self.position = path, position or Position()

    def read(self, most_bytes: int = 1 << 20) -> list[str]:
        """All that is new, in pieces of `most_bytes`; between them the position goes through what is stored."""
        found: list[str] = []
        while True:
            lines, after = read_on(self.path, self.position, most_bytes)
            found += [line.decode() for line in lines]
            if not lines and after == self.position:
                return found
            self.position = read_position(after.document())


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("most_bytes", [5, 1 << 20])
def test_it_reads_on(tmp_path: Path, most_bytes: int) -> None:
    path = tmp_path / "log"
    reader = Reader(path)
    assert reader.read(most_bytes) == []
    append(path, "one", "two")
    assert reader.read(most_bytes) == ["one", "two"]
    with path.open("a") as file:
        file.write("thr")
    assert reader.read(most_bytes) == []
    append(path, "ee", "four")
    assert reader.read(most_bytes) == ["three", "four"]


def test_from_the_end_only_what_comes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, "before")
    reader = Reader(path, end_of(path))
    append(path, "after")
    assert reader.read() == ["after"]
    assert end_of(tmp_path / "none") == Position()


@pytest.mark.parametrize("most_bytes", [7, 1 << 20])
@pytest.mark.parametrize("how", ["renamed", "cut"])
def test_what_it_held_before_it_began_anew_is_read_first(tmp_path: Path, how: str, most_bytes: int) -> None:
    path, former = tmp_path / "log", tmp_path / "log.1"
    reader = Reader(path)
    append(path, "one", "two")
    assert reader.read(most_bytes) == ["one", "two"]
    append(path, "three", "four")
    if how == "renamed":
        os.replace(path, former)
    else:
        shutil.copyfile(path, former)
        os.truncate(path, 0)
    append(path, "five")
    assert reader.read(most_bytes) == ["three", "four", "five"]
    append(path, "six")
    assert reader.read(most_bytes) == ["six"]


def test_what_is_gone_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    reader = Reader(path)
    append(path, "one", "two")
    reader.read()
    os.unlink(path)
    assert reader.read() == []
    append(path, "three")
    assert reader.read() == ["three"]


def test_a_line_without_an_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LINE_MAX_BYTES", 100)
    path = tmp_path / "log"
    append(path, "one", "x" * 1000, "two")
    assert [line for line in Reader(path).read(4) if len(line) < 50][:1] == ["one"]
    assert Reader(path).read(4)[-1] == "two"


@pytest.mark.parametrize("wrong", [None, {}, {"inode": "x", "offset": 1, "is_behind": False}, [1]])
def test_a_position_that_cannot_be_read_is_the_beginning(wrong: object) -> None:
    assert read_position(wrong) == Position()
