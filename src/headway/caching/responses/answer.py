"""A kept response, and how it is given: with its age, or as "not modified" to a client that has it already."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from typing import Literal

import msgspec

from headway.caching.responses.asked import Look, values
from headway.caching.responses.ruling import TAG_HEADER, Ruling

# How a response came about, in its header HOW_HEADER.
How = Literal["hit", "miss", "stale", "bypass"]
HOW_HEADER = "x-headway-cache"
# Of one connection, or said anew each time.
_LEFT_OUT = frozenset(
    {
        "age",
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "trailer",
        "transfer-encoding",
        "upgrade",
        HOW_HEADER,
        TAG_HEADER,
    }
)
# What "not modified" repeats (RFC 9110, section 15.4.5).
_OF_304 = frozenset({"cache-control", "content-location", "date", "etag", "expires", "vary"})
_ETAG_BYTES = 16
_WITH_ETAG = frozenset({200, 203})
# Tags of a list, weak or not: there may be a comma within one. Those without quotes are an app's mistake, and clients
# send them back as they came.
_TAG = re.compile(r'(?:W/)?("[^"]*"|[^",\s]+)')


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """One response. `varied` is what the request had of the headers that the app named in `Vary`."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    made_ms: int  # on the wall clock
    ttl_s: float
    stale_s: float
    varied: list[tuple[str, str]] = []
    etag: str = ""
    modified: str = ""  # its Last-Modified
    tags: list[str] = []  # that the app named in its answer

    def times(self) -> tuple[float, float]:
        """For how long it is fresh, and may be given after that."""
        return self.ttl_s, self.stale_s

    def own_tags(self) -> tuple[bytes, ...]:
        """Those of its tags that are not declared, as the server knows them."""
        return tuple(tag.encode("latin-1", "replace") for tag in self.tags)

    def suits(self, look: Look) -> bool:
        """Whether it is the answer to a request with these headers too."""
        return not self.varied or values((name for name, _ in self.varied), look) == self.varied


def make(status: int, headers: list[tuple[str, str]], body: bytes, ruling: Ruling, look: Look, now_ms: int) -> Answer:
    """Keep what the app answered to a request with the headers of `look`."""
    kept = [(name, value) for name, value in headers if name not in _LEFT_OUT]
    found = dict(kept)
    if status in _WITH_ETAG and "etag" not in found:
        kinds = f"{found.get('content-type', '')}\n{found.get('content-encoding', '')}\n"
        found["etag"] = f'"{blake2b(kinds.encode("latin-1", "replace") + body, digest_size=_ETAG_BYTES).hexdigest()}"'
        kept.append(("etag", found["etag"]))
    return Answer(
        status,
        kept,
        body,
        now_ms,
        ruling.ttl_s,
        ruling.stale_s,
        values(ruling.vary, look),
        found.get("etag", "") if status in _WITH_ETAG else "",
        found.get("last-modified", "") if status in _WITH_ETAG else "",
        list(ruling.tags),
    )


def how_kept(answer: Answer, now_ms: int) -> How:
    """What a kept one counts as; a failure, which is not kept, as what it is to those who waited for it."""
    if answer.ttl_s <= 0:
        return "miss"
    return "hit" if now_ms - answer.made_ms <= answer.ttl_s * 1000 else "stale"


def to_give(answer: Answer, how: How, look: Look, now_ms: int) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body for one client, of whose own headers `look` tells."""
    more: list[tuple[str, str]] = [(HOW_HEADER, how)]
    if how != "miss":
        more.append(("age", str(max(0, now_ms - answer.made_ms) // 1000)))
    if _has_it(answer, look):
        return 304, [header for header in answer.headers if header[0] in _OF_304] + more, b""
    if answer.status not in (204, 304):
        more.append(("content-length", str(len(answer.body))))
    return answer.status, answer.headers + more, answer.body


def _has_it(answer: Answer, look: Look) -> bool:
    """Whether the client has this response: by its tag, else by the date that the app gave (RFC 9110, section 13)."""
    tags = look("if-none-match")
    if tags is not None:
        own = answer.etag.removeprefix("W/")
        return bool(own) and any(tag in (own, "*") for tag in _TAG.findall(tags))
    since = look("if-modified-since") if answer.modified else None
    if since is None or since == answer.modified:
        return since is not None
    has_s, is_s = _seconds(since), _seconds(answer.modified)
    return has_s is not None and is_s is not None and has_s >= is_s


def _seconds(date: str) -> float | None:
    """A date of HTTP, since the epoch; None for what is none."""
    try:
        found = parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return None
    return found.timestamp() if found.tzinfo is not None else None
