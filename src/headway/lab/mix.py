"""Several kinds of requests in one load: read from what a person writes, and the order in which they are sent.

    "POST /cart x2"     method (GET when left out), path, how often compared with the others (1 when left out)

A file holds what a command line cannot: a body and headers for each.

    [[request]]
    send = "POST /cart x2"
    body = '{"product": 7}'          # or body_file = "cart.json", beside this file
    headers = { Content-Type = "application/json" }
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError
from headway.lab.target import BODY_METHODS, Request

REQUESTS_MAX = 100
WEIGHT_MAX = 100
BODY_MAX_BYTES = 64 * 2**20
_HINT = 'write it like "/", "GET /search?q=tea x8" or "POST /cart x2"'
_KEYS = {"send", "body", "body_file", "headers"}
_REQUEST = re.compile(r"(?:(?P<method>[A-Za-z]+)\s+)?(?P<path>/\S*)(?:\s+x(?P<weight>\d{1,6}))?")


def parse_request(text: str, method: str = "GET") -> Request:
    """One kind of request, without body and headers."""
    match = _REQUEST.fullmatch(text.strip())
    if match is None:
        raise HeadwayError(f'"{text[:60]}" is no request', hint=_HINT)
    weight = int(match["weight"] or 1)
    if not 1 <= weight <= WEIGHT_MAX:
        raise HeadwayError(f'"{text[:60]}": a weight is a whole number from 1 to {WEIGHT_MAX}', hint=_HINT)
    return Request((match["method"] or method).upper(), match["path"], weight=weight)


def parse_header(text: str) -> tuple[str, str]:
    """`Name: value`."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise HeadwayError(f'"{text[:60]}" is no header', hint='write it like "Accept: application/json"')
    return name.strip(), value.strip()


def read_body(text: str) -> bytes:
    """A body as given: the text itself, or the content of FILE for `@FILE`."""
    return _read(Path(text[1:])) if text.startswith("@") else text.encode()


def with_content(
    requests: Sequence[Request], headers: Sequence[tuple[str, str]], body: bytes | None
) -> tuple[Request, ...]:
    """The same with headers for all of them, and a body for those whose method has one."""
    if body is not None and not any(request.method in BODY_METHODS for request in requests):
        raise HeadwayError(
            f"a body, but no request that carries one ({', '.join(sorted({r.method for r in requests}))})",
            hint=f'use {", ".join(BODY_METHODS)}, like --method POST or --request "POST /cart"',
        )
    return tuple(
        Request(
            request.method,
            request.path,
            (*headers, *request.headers),
            request.body or (body or b"" if request.method in BODY_METHODS else b""),
            request.weight,
        )
        for request in requests
    )


def read_requests(path: Path) -> tuple[Request, ...]:
    """The requests of a TOML file; HeadwayError names the file and the entry."""
    try:
        document = tomllib.loads(_read(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HeadwayError(f"{path}: not TOML ({error})", hint="one [[request]] for each, see headway load") from error
    entries = document.get("request")
    if set(document) != {"request"} or not isinstance(entries, list) or not 1 <= len(entries) <= REQUESTS_MAX:
        raise HeadwayError(
            f"{path}: needs 1 to {REQUESTS_MAX} [[request]] tables and nothing else", hint='[[request]] send = "/"'
        )
    return tuple(_entry(f"{path}: request {number}", entry, path.parent) for number, entry in enumerate(entries, 1))


def _entry(where: str, entry: Any, folder: Path) -> Request:
    if not isinstance(entry, dict) or not isinstance(entry.get("send"), str):
        raise HeadwayError(f"{where}: says not what to send", hint='send = "POST /cart x2"')
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise HeadwayError(f"{where}: unknown key {unknown[0]}", hint=f"known: {', '.join(sorted(_KEYS))}")
    headers, body, file = entry.get("headers", {}), entry.get("body", ""), entry.get("body_file", "")
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise HeadwayError(f"{where}: headers are texts by name", hint='headers = { Accept = "text/html" }')
    if not isinstance(body, str) or not isinstance(file, str) or (body and file):
        raise HeadwayError(f"{where}: a body is one text", hint='body = "…", or body_file = "FILE"')
    try:
        request = parse_request(entry["send"])
    except HeadwayError as error:
        raise HeadwayError(f"{where}: {error.message}", hint=error.hint) from None
    content = _read(folder / file) if file else body.encode()
    return Request(request.method, request.path, tuple(headers.items()), content, request.weight)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(BODY_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        told = getattr(error, "strerror", None) or str(error)
        raise HeadwayError(f"{path} cannot be read: {told}", hint="check the path; it is relative to here") from error
    if len(content) > BODY_MAX_BYTES:
        raise HeadwayError(f"{path} is larger than {BODY_MAX_BYTES // 2**20} MiB", hint="send a smaller body")
    return content


def turns(weights: Sequence[int]) -> tuple[int, ...]:
    """The order in which kinds are sent, over and over: each as often as its weight says, spread as evenly as can be.

    Evenly (smooth weighted round robin) instead of by chance: the shares are exact in short loads, too.
    """
    divisor = math.gcd(*weights)
    shares = [weight // divisor for weight in weights]
    total, credit = sum(shares), [0] * len(shares)
    order = []
    for _ in range(total):
        credit = [have + share for have, share in zip(credit, shares, strict=True)]
        chosen = credit.index(max(credit))
        credit[chosen] -= total
        order.append(chosen)
    return tuple(order)
