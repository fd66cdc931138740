"""Headers of a request that go with each call made for it, as they came in; what is not in their form stays behind.

They are looked for when somebody asks: until then a request holds what the server made of its headers, and no more.
"""

from __future__ import annotations

import re
from typing import Any

_NAMES = ("x-request-id", "traceparent", "tracestate", "baggage", "x-headway-criticality")
_BY_ASGI = {name.encode(): name for name in _NAMES}
_BY_WSGI = {"HTTP_" + name.upper().replace("-", "_"): name for name in _NAMES}
_ZEROS = re.compile(r"00-(0{32}|[0-9a-f]{32}-0{16})")  # by the standard, what says that there is none
# Lengths as in the W3C's recommendations: what is longer need not be passed on by anybody.
_FORMS = {
    "x-request-id": re.compile(r"[A-Za-z0-9._-]{1,128}"),
    "traceparent": re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
    "tracestate": re.compile(r"[\x20-\x7e]{1,512}"),
    "baggage": re.compile(r"[\x20-\x7e]{1,8192}"),
    "x-headway-criticality": re.compile(r"[0-3]"),
}

Headers = Any  # ASGI: pairs of bytes; WSGI: the environ


def read(headers: Headers) -> dict[str, str]:
    """Those of `headers` that travel on. Of one that came twice the first counts."""
    found: dict[str, str] = {}
    if isinstance(headers, dict):
        for key, name in _BY_WSGI.items():
            value = headers.get(key)
            if value is not None and _FORMS[name].fullmatch(value):
                found[name] = value
    else:
        for key, raw in headers:
            known = _BY_ASGI.get(key)
            if known is not None and known not in found:
                value = raw.decode("latin-1")
                if _FORMS[known].fullmatch(value):
                    found[known] = value
    if _ZEROS.match(found.get("traceparent", "")):
        del found["traceparent"]
    if "traceparent" not in found:
        found.pop("tracestate", None)
    return found
