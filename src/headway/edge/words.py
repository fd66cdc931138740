"""Puts values that people chose (paths, hosts, names) into HAProxy's file so that they can be read as nothing else."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z0-9_./:@\[\]*,+=~-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def word(value: str) -> str:
    """`value` as one word: as it is when harmless, otherwise in single quotes. ValueError on control characters."""
    if _CONTROL.search(value):
        raise ValueError(f"{value!r} holds a control character")
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("'", "'\\''") + "'"


def milliseconds(seconds: float) -> str:
    """A duration in HAProxy's unit; never zero, which would mean "for ever"."""
    return f"{max(1, round(seconds * 1000))}ms"


def comment(value: str) -> str:
    """`value` for a comment line: a line break in it must not begin a directive."""
    return _CONTROL.sub(" ", value)
