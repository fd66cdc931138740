"""The generated reference of the commands says what the commands do."""

from __future__ import annotations

from pathlib import Path

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
