"""What is wrong with the responses that a service declares to be kept, and which cache keeps them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from headway.declaration.keys import TAKEN_OUT, path_text
from headway.declaration.translate import did_you_mean
from headway.errors import Problem
from headway.model.declared import Responses, Service, System
from headway.model.http import STATUSES
from headway.model.path_pattern import PathPattern, check_template, parse_pattern
from headway.model.units import format_bytes, format_duration

# The server keeps nothing longer; above it a typing mistake is likelier than a wish.
KEPT_MAX_S = 40 * 86400.0
BODY_MAX_BYTES = 8 * 2**20  # it is held in memory several times while it is stored
TAGS_MAX = 16
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Each has a key of its own, which says what is done about it.
_OWN_KEYS = {"cookie": 'cookies = "vary"', "authorization": 'authorization = "vary"', "host": 'host = "vary"'}


def cache_of(responses: Responses, service: Service, system: System) -> str | None:
    """The cache that keeps them: the one named, else the only one that the service uses, or that there is."""
    if responses.cache is not None:
        return responses.cache
    used = [name for name in dict.fromkeys(service.uses) if name in system.caches]
    found = used or list(system.caches)
    return found[0] if len(found) == 1 else None


def check_responses(name: str, service: Service, system: System, broken: frozenset[str]) -> Iterator[Problem]:
    """Every problem of what is below `cache`; what is `broken` has been told."""
    seen: dict[str, str] = {}
    for text, responses in service.cache.items():
        path = path_text(("services", name, "cache", text))
        try:
            pattern = parse_pattern(text)
        except ValueError as error:
            yield Problem(path, *str(error).split("; ", 1))
            continue
        shape = re.sub(r"\?P<\w+>", "", pattern.regex.pattern)
        other = seen.setdefault(shape, text)
        if other != text:
            yield Problem(path, f'stands for the same paths as "{other}"', "keep one of the two")
        yield from _cache(path, responses, service, system, broken)
        yield from _bounds(path, responses)
        yield from _tags(path, responses, pattern)
        yield from _headers(path, responses)
        yield from _statuses(path, responses)


def _cache(
    path: str, responses: Responses, service: Service, system: System, broken: frozenset[str]
) -> Iterator[Problem]:
    known = tuple(system.caches)
    found = cache_of(responses, service, system)
    if any(each == "caches" or each.startswith("caches.") for each in broken):
        return
    if found is None:
        told = f"there are several caches: {', '.join(known)}" if known else "there is no cache to keep them in"
        yield Problem(f"{path}.cache", told, f'write cache = "{known[0]}"' if known else "add [caches.hot]")
    elif found not in known:
        hint = did_you_mean(found, known) or f"add [caches.{found}]"
        yield Problem(f"{path}.cache", f'no cache is called "{found}"', hint)


def _bounds(path: str, responses: Responses) -> Iterator[Problem]:
    for key, wait_s in (("ttl", responses.ttl_s), ("stale", responses.stale_s)):
        if wait_s is not None and wait_s > KEPT_MAX_S:
            told = f"{format_duration(wait_s)} is longer than {format_duration(KEPT_MAX_S)}"
            yield Problem(f"{path}.{key}", told, f'write it like {key} = "30s"')
    if responses.body_max_bytes > BODY_MAX_BYTES:
        told = f"{format_bytes(responses.body_max_bytes)} is too much: {format_bytes(BODY_MAX_BYTES)} at most"
        yield Problem(f"{path}.body_max", told, 'write it like "1MiB"; what is larger is passed on as it comes')


def _tags(path: str, responses: Responses, pattern: PathPattern) -> Iterator[Problem]:
    if len(responses.tags) > TAGS_MAX:
        told = f"are {len(responses.tags)}, and {TAGS_MAX} at most are kept"
        yield Problem(f"{path}.tags", told, "keep those that matter")
    for index, text in enumerate(responses.tags):
        if text == TAKEN_OUT:
            continue
        try:
            check_template(text, pattern.names)
        except ValueError as error:
            yield Problem(f"{path}.tags[{index}]", *str(error).split("; ", 1))


def _headers(path: str, responses: Responses) -> Iterator[Problem]:
    for index, text in enumerate(responses.vary):
        if text == TAKEN_OUT:
            continue
        where = f"{path}.vary[{index}]"
        if text.lower() in _OWN_KEYS:
            yield Problem(where, f'"{text}" has a key of its own', f"write {_OWN_KEYS[text.lower()]}")
        elif text == "*":
            yield Problem(where, "* would keep nothing", f"take {path} out, or name the headers")
        elif not _HEADER.fullmatch(text):
            yield Problem(where, f'"{text}" is not the name of a header', 'write it like "Accept-Language"')


def _statuses(path: str, responses: Responses) -> Iterator[Problem]:
    allowed = ", ".join(str(status) for status in sorted(STATUSES))
    for index, status in enumerate(responses.statuses):
        if status not in STATUSES:
            yield Problem(f"{path}.statuses[{index}]", f"{status} is never kept", f"those that may be: {allowed}")
