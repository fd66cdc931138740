"""What a request passes on to the calls made for it: what is in its form, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from headway.worker import asked, carried

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
GOOD = {
    "x-request-id": "0001764244800000abcdef0123456789",
    "traceparent": TRACE,
    "tracestate": "rojo=1",
    "baggage": "tenant=7,plan=gold",
    "x-headway-criticality": "2",
}


def asgi(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def wsgi(headers: dict[str, str]) -> dict[str, Any]:
    return {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}


@pytest.mark.parametrize("form", [asgi, wsgi])
def test_what_travels_is_read_and_the_rest_is_not(form: Any) -> None:
    assert carried.read(form({"host": "shop", "cookie": "secret", **GOOD, "x-headway-attempt": "2"})) == GOOD


@pytest.mark.parametrize("form", [asgi, wsgi])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-request-id", "x" * 129),
        ("x-request-id", "a b"),
        ("x-request-id", "a\r\nhost: evil"),
        ("x-request-id", ""),
        ("traceparent", TRACE[:-1]),
        ("traceparent", TRACE.upper()),
        ("traceparent", "00-" + "0" * 32 + "-b7ad6b7169203331-01"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01"),
        ("tracestate", "x" * 513),
        ("baggage", "x" * 8193),
        ("baggage", "caf\xe9"),
        ("baggage", "a\x00b"),
        ("x-headway-criticality", "4"),
        ("x-headway-criticality", "-1"),
    ],
)
def test_what_is_not_in_its_form_stays_behind(form: Any, name: str, value: str) -> None:
    found = carried.read(form({**GOOD, name: value}))
    gone = {name, "tracestate"} if name == "traceparent" else {name}
    assert found == {known: text for known, text in GOOD.items() if known not in gone}


def test_the_first_of_two_counts() -> None:
    assert carried.read([(b"x-request-id", b"one"), (b"x-request-id", b"two")]) == {"x-request-id": "one"}


def test_a_request_reads_its_headers_once_and_only_when_asked() -> None:
    class Headers(list[tuple[bytes, bytes]]):
        reads = 0

        def __iter__(self) -> Any:
            Headers.reads += 1
            return super().__iter__()

    request = asked.begin(1 << 60, 0, Headers(asgi(GOOD)))
    assert Headers.reads == 0
    given = request.carried()
    given["x-request-id"] = "changed by who asked"
    assert request.carried() == GOOD
    assert Headers.reads == 1
    asked.current.set(None)
