"""What stands for a called service in a test: the answers that the test gives, and the calls that came."""

from __future__ import annotations

import json as _json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, unquote

from headway.calls.client import service as client
from headway.errors import BadAnswer, CallError, CircuitOpen, DeadlineExceeded, Refused, Unavailable
from headway.model.calls import ANSWERED, REFUSED, SPENT, UNAVAILABLE

_ABSENT: Any = object()
_OPEN_S = 60.0
# As the edge answers where no app did.
_FAILURES: dict[type[CallError], tuple[int, str]] = {
    Refused: (503, REFUSED),
    Unavailable: (503, UNAVAILABLE),
    DeadlineExceeded: (504, SPENT),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it came. One that is tried again comes again."""

    method: str
    path: str  # decoded, without its query
    query: str  # as it was sent
    headers: Mapping[str, str]  # found by name in any case
    content: bytes
    places: Mapping[str, str] = field(default_factory=dict)  # what stands in the places of the path, by name

    @property
    def params(self) -> dict[str, str]:
        """The query by name; of several of a name the last."""
        return {name: values[-1] for name, values in parse_qs(self.query, keep_blank_values=True).items()}

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body read as JSON; ValueError when it is none."""
        return _json.loads(self.content)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back. `is_garbage`: something that is no HTTP."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes = b""
    delay_s: float = 0.0
    is_garbage: bool = False


class Answers:
    """What calls of one method and path are answered, one after the other; the last answer stays. `calls` are those
    that came."""

    def __init__(self, method: str, path: str) -> None:
        self.method = method.upper()
        self.path = path
        self.calls: list[Call] = []
        self._pattern = _pattern(path)
        self._replies: list[Reply] = []

    def __repr__(self) -> str:
        return f"<Answers to {self.method} {self.path}>"

    def respond(
        self,
        status: int = 200,
        *,
        json: Any = _ABSENT,
        text: str | None = None,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
    ) -> Answers:
        """Answer so, `delay` seconds after the call came. Itself, so that another answer can follow."""
        own = {name.lower(): value for name, value in (headers or {}).items()}
        if json is not _ABSENT:
            content, kind = _json.dumps(json).encode(), "application/json"
        elif text is not None:
            content, kind = text.encode(), "text/plain; charset=utf-8"
        else:
            kind = "application/octet-stream"
        self._replies.append(Reply(status, tuple({"content-type": kind, **own}.items()), content, delay))
        return self

    def fail(self, error: type[CallError], *, delay: float = 0.0) -> Answers:
        """Answer as Headway does when a call ends by this error: Refused, DeadlineExceeded, Unavailable, BadAnswer.

        Unavailable is tried again, as ever. ValueError for others; for CircuitOpen there is `StandIn.open_circuit`.
        """
        if error is CircuitOpen:
            raise ValueError("an open circuit is a matter of the whole service: services[NAME].open_circuit()")
        if error is BadAnswer:
            self._replies.append(Reply(0, delay_s=delay, is_garbage=True))
            return self
        if error not in _FAILURES:
            names = ", ".join(one.__name__ for one in (*_FAILURES, BadAnswer))
            raise ValueError(f"a service does not answer by {error.__name__}; one of {names}")
        status, mark = _FAILURES[error]
        headers = ((ANSWERED, mark), ("retry-after", "1"), ("content-type", "text/plain"))
        self._replies.append(Reply(status, headers, b"", delay))
        return self

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """What stands in the places of the path; None when this is not what answers."""
        if method != self.method or not self._replies:
            return None
        found = self._pattern.fullmatch(path)
        return None if found is None else found.groupdict()

    def take(self, call: Call) -> Reply:
        """The answer to a call that matches."""
        self.calls.append(call)
        return self._replies[min(len(self.calls), len(self._replies)) - 1]


class StandIn:
    """A service as a test has it. `app`, an ASGI or WSGI app, answers what no `on` does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[Call] = []
        self.app: Any = None
        self.unanswered: list[Call] = []
        self._answers: list[Answers] = []

    def on(self, method: str, path: str) -> Answers:
        """Say what calls of this method and path are answered, whatever their query: `on("GET", "/left/{product}")`.

        A place in braces is one part of the path. What was said last goes first.
        """
        found = Answers(method, path)
        self._answers.insert(0, found)
        return found

    def open_circuit(self) -> None:
        """Have calls raise CircuitOpen until the test ends, or for a minute: nothing is sent any more."""
        client.service(self.name).caller().target.breaker.until_s = monotonic() + _OPEN_S

    def renew(self) -> None:
        """As if nothing had been said and nobody had called."""
        self.calls, self.unanswered, self._answers, self.app = [], [], [], None

    def take(self, method: str, target: str, headers: Mapping[str, str], content: bytes) -> Reply | None:
        """A call came: what it is answered, None when no `on` says."""
        raw, _, query = target.partition("?")
        path = unquote(raw)
        for answers in self._answers:
            places = answers.match(method, path)
            if places is not None:
                call = Call(method, path, query, headers, content, places)
                self.calls.append(call)
                return answers.take(call)
        call = Call(method, path, query, headers, content)
        self.calls.append(call)
        if self.app is None:
            self.unanswered.append(call)
        return None

    def complaint(self) -> str:
        """What the test has left without an answer; empty when nothing."""
        if not self.unanswered:
            return ""
        first = self.unanswered[0]
        more = f", and {len(self.unanswered) - 1} more" if len(self.unanswered) > 1 else ""
        return (
            f"service {self.name} was called by {first.method} {first.path}{more}, and the test gives no answer\n"
            f'hint: services["{self.name}"].on("{first.method}", "{first.path}").respond(json=...)'
        )


def _pattern(path: str) -> re.Pattern[str]:
    """Places like those of `cache` in the declaration."""
    if not path.startswith("/") or "?" in path:
        raise ValueError(f"{path!r} is no path: it begins with / and has no query")
    parts: Sequence[str] = re.split(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", path)
    return re.compile("".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>[^/]+)" for i, p in enumerate(parts)))
