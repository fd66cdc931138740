"""Whatever a command raises becomes lines on standard error and an exit status; never a traceback of ours."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest

from headway.cli.main import cli, guarded
from headway.errors import AppError, DeclarationError, HeadwayError, NotRunning, Problem


def test_the_result_of_a_command_is_its_status() -> None:
    assert [guarded(lambda result=result: result) for result in (None, 0, 1, True)] == [0, 0, 1, 0]  # type: ignore[misc]


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def _raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (NotRunning("nothing runs here", hint="headway up"), 1, "error: nothing runs here\nhint: headway up\n"),
        (HeadwayError("no hint"), 1, "error: no hint\n"),
        (
            AppError("services.web: it raised", hint="mend it", detail="Traceback …\nValueError: 3\n"),
            1,
            "Traceback …\nValueError: 3\nerror: services.web: it raised\nhint: mend it\n",
        ),
        (
            DeclarationError("headway.toml", (Problem("a.b", "is wrong", "write c"), Problem("d", "is wrong"))),
            1,
            "error: headway.toml: 2 problems\n  a.b: is wrong\n    hint: write c\n  d: is wrong\n",
        ),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied\nhint: headway doctor\n"),
        (click.ClickException("No such thing."), 1, "error: no such thing\nhint: headway --help\n"),
        (KeyboardInterrupt(), 130, ""),
        (_caused(RuntimeError("Error calling __set_name__"), KeyboardInterrupt()), 130, ""),
        (ValueError('Error building "literal" validator:\n  KeyboardInterrupt: '), 130, ""),
        (click.exceptions.Exit(3), 3, ""),
    ],
)
def test_errors_become_lines(error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(_raising(error)) == status
    assert capsys.readouterr() == ("", text)


def test_a_mistake_of_ours_is_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADWAY_DEBUG", raising=False)
    assert guarded(_raising(KeyError("wanted"))) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: this is a mistake in Headway itself: KeyError: 'wanted'\nhint: please report it")
    monkeypatch.setenv("HEADWAY_DEBUG", "1")
    with pytest.raises(KeyError):
        guarded(_raising(KeyError("wanted")))


@pytest.mark.parametrize("name", list(cli.commands))
def test_every_command_explains_itself(name: str) -> None:
    command = cli.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name}"
