"""What can go wrong on the way to HAProxy's run-time API, by what the caller may do about it.

EngineError
├── EdgeUnreachable    nobody answers on the socket: HAProxy is down or stopped; try again, or replace it
└── EdgeRefused        HAProxy answered no: the request is wrong or comes too early; `answer` says why
"""

from __future__ import annotations

from headway.errors import EngineError


class EdgeUnreachable(EngineError):
    """HAProxy does not answer on its socket."""


class EdgeRefused(EngineError):
    """HAProxy refused a command; `answer` is its own text."""

    def __init__(self, command: str, answer: str) -> None:
        super().__init__(f"HAProxy refused `{command}`: {answer}", hint="headway explain edge shows what led to it")
        self.command = command
        self.answer = answer
