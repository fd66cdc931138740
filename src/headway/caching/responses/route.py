"""The paths of a service whose responses are kept, as the declaration has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from headway.model.path_pattern import PathPattern, parse_pattern


@dataclass(frozen=True, slots=True)
class Route:
    """One path, maybe with places, and what holds for its responses."""

    pattern: PathPattern
    cache: str
    ttl_s: float
    stale_s: float = 0.0
    tags: tuple[str, ...] = ()
    query: frozenset[str] | None = None  # the parameters that count; None: all
    vary: tuple[str, ...] = ()  # names of headers in small letters, sorted
    by_host: bool = True
    cookies: str = "bypass"
    authorization: str = "bypass"
    statuses: frozenset[int] = frozenset({200})  # kept for `ttl_s`; others where the app says for how long
    body_max_bytes: int = 2**20

    @property
    def name(self) -> str:
        """What it is counted as."""
        return f"GET {self.pattern.text}"

    def tags_of(self, places: Mapping[str, str]) -> tuple[bytes, ...]:
        """The declared tags of one path."""
        return tuple(dict.fromkeys(tag.format_map(places).encode("utf-8", "surrogateescape") for tag in self.tags))


class Routes:
    """All paths of a service. A path without places goes before those with some, else the first that fits."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._plain: dict[str, Route] = {}
        self._others: list[Route] = []
        for route in routes:
            if route.pattern.names:
                self._others.append(route)
            else:
                self._plain[route.pattern.text] = route

    def find(self, path: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route of a path, and what stands in its places."""
        plain = self._plain.get(path)
        if plain is not None:
            return plain, {}
        for route in self._others:
            places = route.pattern.match(path)
            if places is not None:
                return route, places
        return None


def read_routes(told: Iterable[Mapping[str, Any]]) -> tuple[Route, ...]:
    """Routes as the worker is told of them. Raises ValueError, KeyError and TypeError for what is none."""
    return tuple(
        Route(
            pattern=parse_pattern(each["path"]),
            cache=str(each["cache"]),
            ttl_s=float(each["ttl_s"]),
            stale_s=float(each["stale_s"]),
            tags=tuple(each["tags"]),
            query=None if each["query"] is None else frozenset(each["query"]),
            vary=tuple(sorted({str(name).lower() for name in each["vary"]})),
            by_host=each["host"] == "vary",
            cookies=str(each["cookies"]),
            authorization=str(each["authorization"]),
            statuses=frozenset(int(status) for status in each["statuses"]),
            body_max_bytes=int(each["body_max_bytes"]),
        )
        for each in told
    )
