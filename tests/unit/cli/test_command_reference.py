"""The generated reference of the commands says what the commands do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from headway.cli.main import cli
from headway.cli.reference import main, reference_markdown

ROOT = Path(__file__).parents[3]


def test_the_reference_is_current() -> None:
    current = (ROOT / "docs" / "reference" / "commands.md").read_text()
    assert current == reference_markdown(), "run: python -m headway.cli.reference"


def test_it_has_every_command_and_option() -> None:
    text = reference_markdown()
    for name, command in cli.commands.items():
        section = text.split(f"\n## headway {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            for spelling in (*parameter.opts, *parameter.secondary_opts):
                assert spelling in section or parameter.param_type_name == "argument", f"{name} {spelling}"


def helps(command: click.Command, context: click.Context) -> Iterator[str]:
    """The help of a command and of all below it, as a terminal of 80 columns shows it."""
    yield command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.commands[name]
            yield from helps(below, click.Context(below, info_name=name, parent=context, terminal_width=80))


def test_every_help_fits_80_columns_and_no_sentence_of_a_list_is_cut_off() -> None:
    every = list(helps(cli, click.Context(cli, info_name="headway", terminal_width=80)))
    lines = [line for text in every for line in text.splitlines()]
    assert len(every) > 30
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines if line.startswith("  ") and line.endswith("...")] == []


def test_it_can_be_written_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    assert main(["--check"]) == 1
    assert "hint: python -m headway.cli.reference" in capsys.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
