"""What a request asks for: the key of its response, or that it goes past the cache.

Two requests share a response exactly if the app cannot tell them apart by what counts. So that this is no matter of
trust, the app is asked with what is in the key and no more: parameters of the query that do not count, cookies that are
to be ignored, and conditions of the client are taken out of the request before the app sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from urllib.parse import unquote_plus

from headway.caching.keys import encode_key
from headway.caching.responses.route import Route
from headway.caching.responses.ruling import directives

Look = Callable[[str], str | None]  # the value of a header by its name in small letters; several joined by ", "

# What the app is not asked with: conditions on a response that the client has already, which it would answer without a
# body; and what some frameworks take for another method or path than those that are in the key.
TAKEN_OUT = frozenset(
    {
        "if-modified-since",
        "if-none-match",
        "if-range",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
    }
)
# What a trusted proxy says of the place that was asked for, where it is another than `Host`.
_PLACE = ("x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix")
_CODINGS = ("br", "deflate", "gzip", "zstd")
_DIGEST_BYTES = 12


@dataclass(slots=True)
class Asked:
    """One request for a response that may be kept."""

    key: str  # a part of the stored key, by which people find it
    query: str  # in its one spelling: what the app is asked with
    look: Look  # headers, as the app is asked with them
    is_head: bool = False

    @property
    def only_kept(self) -> bool:
        """Whether the client wants what is kept, and the app not to be asked (RFC 9111, section 5.2.1.7).

        The other directives are passed over: by them everybody could have the app asked each time."""
        return "only-if-cached" in directives(self.look("cache-control") or "")


def bypasses(route: Route, method: str, look: Look) -> bool:
    """Whether the app must be asked, whatever is kept."""
    return (
        method not in ("GET", "HEAD")
        or (route.authorization == "bypass" and look("authorization") is not None)
        or (route.cookies == "bypass" and look("cookie") is not None)
        or (look("range") is not None and method == "GET")  # with HEAD it says nothing (RFC 9110, section 14.2)
        or look("if-match") is not None  # these two ask about what the app has, not about what is kept
        or look("if-unmodified-since") is not None
        or look("upgrade") is not None
        or look("transfer-encoding") is not None
        or look("content-length") not in (None, "", "0")
        or "text/event-stream" in (look("accept") or "")
    )


def ask(route: Route, service: str, method: str, scheme: str, path: str, query: str, look: Look) -> Asked:
    """The request, once it does not go past. `path`: as it was sent where that is known."""

    def seen(name: str) -> str | None:
        if name in TAKEN_OUT or (name == "cookie" and route.cookies == "ignore"):
            return None
        value = look(name)
        return codings(value) if name == "accept-encoding" and value is not None else value

    one = normalised(query, route.query)
    host = (look("host") or "").lower() if route.by_host else ""
    place = f"{scheme}://{host}{path}{'?' if one else ''}{one}"
    names = [*route.vary]
    names += ["cookie"] if route.cookies == "vary" else []
    names += ["authorization"] if route.authorization == "vary" else []
    if route.by_host and look("x-forwarded-host") not in (None, look("host")):
        names += _PLACE
    elif look("x-forwarded-prefix") is not None:
        names.append("x-forwarded-prefix")
    parts = (service, place, digest(values(names, seen))) if names else (service, place)
    return Asked(encode_key(parts, {}).decode(), one, seen, method == "HEAD")


def normalised(query: str, names: frozenset[str] | None) -> str:
    """A query in its one spelling: parameters sorted by name, those of one name in their order, others left out.

    A name counts as what it means, not as it is spelled: `%61` is `a`.
    """
    pairs = [pair for pair in query.split("&") if pair]
    if names is not None:
        pairs = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) in names]
    return "&".join(sorted(pairs, key=lambda pair: pair.partition("=")[0])) if len(pairs) > 1 else "".join(pairs)


def codings(value: str) -> str:
    """Which of the usual content codings a client takes, in their one spelling: browsers differ in the rest only."""
    taken = set()
    for part in value.lower().split(","):
        name, _, parameters = part.partition(";")
        if parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            taken.add(name.strip())
    return ", ".join(name for name in _CODINGS if name in taken)


def values(names: Iterable[str], look: Look) -> list[tuple[str, str]]:
    """Headers by which responses differ, with what this request has; absent is not the same as empty."""
    return [(name, "-" if (value := look(name)) is None else f"={value.strip()}") for name in names]


def digest(found: Iterable[tuple[str, str]]) -> str:
    """Those in a key, where nobody can read them: they may be somebody's secret."""
    text = "\n".join(f"{name}{value}" for name, value in found)
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=_DIGEST_BYTES).hexdigest()
