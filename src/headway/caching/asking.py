"""Asks a server a few things from outside the app: one blocking connection, bounded in time. RESP3 over a socket.

The app's own connections are in `caching.client`; nothing here is on the way of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import hiredis

from headway.caching import resp
from headway.caching.engine import Flavour, is_new_enough
from headway.caching.place import Place
from headway.caching.refusals import TOO_OLD, Refusal, copies, refused, unanswered, unwelcome, without_secret
from headway.errors import EngineError


class Unanswered(EngineError):
    """The server does not answer now: it is away, hangs, or has nobody that leads. It may be back at any moment."""


class Refused(EngineError):
    """The server answers, and not as a cache needs it: look after it, or name another one."""


class Asking:
    """One connection. Unanswered when nobody answers within `timeout_s`, Refused when we are not let in."""

    def __init__(self, place: Place, timeout_s: float = 1.0, *, name: str = "headway") -> None:
        self._place = place
        self._reader = resp.reader()
        try:
            self._sock = resp.dial(place, timeout_s)
        except OSError as error:
            raise _as_error(unanswered(place, error), Unanswered) from error
        try:
            self._greet(name)
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sock.close()

    def ask(self, *parts: str | bytes | int) -> Any:
        """One command and its reply. Refused when the server says no."""
        (reply,) = self.ask_all([parts])
        if isinstance(reply, hiredis.ReplyError):
            raise Refused(f"{self._place.shown} refuses {parts[0]!s}: {reply}")
        return reply

    def ask_all(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        """Commands in one go, and their replies; an error is one of them."""
        return self._exchange([resp.command(*parts) for parts in commands])

    def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        answers = (reply for reply in resp.replies(self._sock, self._reader) if resp.pushed(reply) is None)
        try:
            self._sock.sendall(b"".join(commands))
            return [next(answers) for _ in commands]
        except (OSError, hiredis.HiredisError) as error:
            raise _as_error(unanswered(self._place, error), Unanswered) from error

    def _greet(self, name: str) -> None:
        place = self._place
        said, *rest = self._exchange(resp.greeting(place, name))
        if isinstance(said, hiredis.ReplyError):
            why = unwelcome(place, str(said))
            raise _as_error(why, Unanswered if why.passes else Refused)
        for reply in rest:
            if isinstance(reply, hiredis.ReplyError):
                what = without_secret(place, str(reply))
                raise Refused(f"{place.shown} does not let us in: {what}", hint="look after user and database there")

    def info(self) -> dict[str, str]:
        """What the server tells of itself, by its own words."""
        text = self.ask("INFO")
        lines = (text.decode(errors="replace") if isinstance(text, bytes) else str(text)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def check_server(place: Place, prefix: str, timeout_s: float = 1.0) -> None:
    """Refused, with what to do, for a server that cannot be a cache; Unanswered when it is away."""
    with Asking(place, timeout_s) as asking:
        info = asking.info()
        flavour: Flavour = "Valkey" if info.get("server_name") == "valkey" else "Redis"
        version = info.get("valkey_version") or info.get("redis_version", "0")
        if not is_new_enough(flavour, version):
            raise Refused(f"{place.shown} is {flavour} {version}, too old for a cache", hint=TOO_OLD)
        if info.get("cluster_enabled") == "1":
            hint = "name a server that is no part of a Cluster: each of these would know a part of the keys alone"
            raise Refused(f"{place.shown} is part of a Cluster", hint=hint)
        if info.get("role") == "slave" and not place.sentinels:
            raise _as_error(copies(place), Refused)
        needed = [["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix], ["CLIENT", "TRACKING", "OFF"]]
        needed.append(["EVAL", "return 1", "0"])
        for command, reply in zip(needed, asking.ask_all(needed), strict=True):
            if isinstance(reply, hiredis.ReplyError):
                raise _as_error(refused(place, " ".join(command[:2]), str(reply)), Refused)


def _as_error(why: Refusal, kind: type[EngineError]) -> EngineError:
    return kind(why.text, hint=why.hint)
