"""A text of the declaration that may hold references to secrets, judged as far as it is known. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from headway.declaration.references import parse, unset
from headway.errors import Problem

Judge = Callable[[str, str], Iterator[Problem]]


def check_given(path: str, text: str, environment: Mapping[str, str], judge: Judge | None = None) -> Iterator[Problem]:
    """What is wrong with its references; where all of them have a value here, `judge` gets the path and the whole.

    Of files the content is not looked at: it may change before it is used.
    """
    try:
        pieces = parse(text)
    except ValueError as error:
        yield Problem(path, *str(error).split("; ", 1))
        return
    known: list[str] | None = []
    for piece in pieces:
        if isinstance(piece, str):
            known = None if known is None else [*known, piece]
        elif piece.owner == "env" and piece.field in environment:
            known = None if known is None else [*known, environment[piece.field]]
        else:
            known = None
            if piece.owner == "env":
                yield Problem(path, *unset(piece.field).split("; ", 1))
            elif piece.owner != "file":
                yield Problem(path, f"{piece.text} cannot stand here", "use {env.NAME} or {file.PATH}")
    if known is not None and judge is not None:
        yield from judge(path, "".join(known))
