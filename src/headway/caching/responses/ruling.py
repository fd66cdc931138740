"""Whether an answer of the app may be kept, and for how long: RFC 9111, for a cache that many share.

The app's own word goes before what is declared: `Cache-Control`, `Expires`, `Vary`. What sets a cookie is for one
client and never kept. Declared statuses are kept for the declared time; those that HTTP allows to be kept besides only
if the app says for how long, and failures never.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from headway.caching.responses.route import Route
from headway.model.http import STATUSES

KEPT_MAX_S = 40 * 86400.0
_PRIVATE = ("no-store", "private", "no-cache")
_MUST_ASK = ("must-revalidate", "proxy-revalidate")
_VARY_MAX = 16
TAG_HEADER = "cache-tag"  # by which the app names tags, separated by commas
TAGS_MAX = 16  # besides the declared ones

Headers = Iterable[tuple[str, str]]  # names in small letters


@dataclass(frozen=True, slots=True)
class Ruling:
    """An answer may be kept: for how long it is fresh, for how long it may be given after that, and by which headers of
    the request it differs, besides those that are declared."""

    ttl_s: float
    stale_s: float
    vary: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()  # that the app names, besides those that are declared


def rule(route: Route, status: int, headers: Headers, now_s: float) -> Ruling | None:
    """Judge an answer by its head; None when it is not to be kept. `now_s` on the wall clock."""
    found = _gathered(headers)
    control = directives(found.get("cache-control", ""))
    if not may_share(found, control):
        return None
    told_s = _told_s(found, control, now_s)
    if told_s is None:
        told_s = route.ttl_s if status in route.statuses else 0.0
    elif status not in STATUSES:
        return None
    ttl_s = min(told_s, KEPT_MAX_S)
    if ttl_s <= 0:
        return None
    tags = _tags(found)
    if len(tags) > TAGS_MAX:
        return None  # some of them would make it void, and could not
    return Ruling(ttl_s, min(_stale_s(route, control), KEPT_MAX_S), _vary(route, found), tags)


def is_failure(status: int, headers: Headers) -> bool:
    """An answer that is never kept, and yet may be given to those who waited for the same: the app's failure."""
    found = _gathered(headers)
    return status >= 500 and status != 501 and may_share(found, directives(found.get("cache-control", "")))


def may_share(found: dict[str, str], control: dict[str, str]) -> bool:
    """Whether an answer is for others than who asked, and is one that can be held whole."""
    return (
        "set-cookie" not in found
        and not any(word in control for word in _PRIVATE)
        and "*" not in found.get("vary", "")
        and len(_names(found.get("vary", ""))) <= _VARY_MAX
        and "content-range" not in found
        and not found.get("content-type", "").lower().startswith("text/event-stream")
    )


def directives(text: str) -> dict[str, str]:
    """The directives of `Cache-Control`, in small letters, with their values."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name:
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


def _gathered(headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _told_s(found: dict[str, str], control: dict[str, str], now_s: float) -> float | None:
    """How much longer the answer is fresh by its own word; None where it says nothing."""
    age_s = _seconds(found.get("age", "")) or 0.0
    for name in ("s-maxage", "max-age"):
        if name in control:
            told_s = _seconds(control[name])
            return 0.0 if told_s is None else told_s - age_s  # what cannot be read counts as over
    if "expires" in found:
        try:
            ends_s = parsedate_to_datetime(found["expires"]).timestamp()
            began_s = parsedate_to_datetime(found["date"]).timestamp() if "date" in found else now_s
        except (ValueError, TypeError, OverflowError):
            return 0.0
        return ends_s - began_s - age_s
    return None


def _stale_s(route: Route, control: dict[str, str]) -> float:
    if any(word in control for word in _MUST_ASK):
        return 0.0
    if "stale-while-revalidate" in control:
        return _seconds(control["stale-while-revalidate"]) or 0.0
    return route.stale_s


def _vary(route: Route, found: dict[str, str]) -> tuple[str, ...]:
    names = _names(found.get("vary", ""))
    if "content-encoding" in found:
        names.add("accept-encoding")  # an app that compresses by what the client takes, and does not say so
    return tuple(sorted(names - set(route.vary)))


def _tags(found: dict[str, str]) -> tuple[str, ...]:
    named = (part.strip() for part in found.get(TAG_HEADER, "").split(","))
    return tuple(dict.fromkeys(tag for tag in named if tag))


def _names(text: str) -> set[str]:
    return {name for part in text.lower().split(",") if (name := part.strip())}


def _seconds(text: str) -> float | None:
    return float(text[:12]) if text.isascii() and text.isdigit() else None
