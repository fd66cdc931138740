"""Where spans are sent, and as what."""

from __future__ import annotations

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from headway.control.exporting import ENDPOINT, TRACES_ENDPOINT, collector_of
from headway.control.otlp_spans import exported
from headway.model.declared import System
from headway.model.span import Span

URL = "http://collector:4318"


@pytest.mark.parametrize(
    ("declared", "environ", "found"),
    [
        ({}, {}, None),
        ({"otlp": URL}, {}, {ENDPOINT: URL, TRACES_ENDPOINT: f"{URL}/v1/traces"}),
        ({"otlp": f"{URL}/"}, {ENDPOINT: "http://other"}, {ENDPOINT: f"{URL}/", TRACES_ENDPOINT: f"{URL}/v1/traces"}),
        ({}, {ENDPOINT: URL}, {ENDPOINT: URL}),
        ({}, {TRACES_ENDPOINT: f"{URL}/x"}, {TRACES_ENDPOINT: f"{URL}/x"}),
        ({}, {ENDPOINT: URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None),
        ({}, {ENDPOINT: URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, {ENDPOINT: URL}),
        ({}, {ENDPOINT: URL, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({}, {ENDPOINT: URL, "OTEL_SDK_DISABLED": "true"}, None),
        ({"otlp": URL, "traces": False}, {ENDPOINT: URL}, None),
    ],
)
def test_the_declaration_goes_before_the_environment(
    declared: dict[str, object], environ: dict[str, str], found: dict[str, str] | None
) -> None:
    assert collector_of(System.model_validate(declared), environ) == found


SPAN = Span(
    trace="0af7651916cd43dd8448eb211c80319c",
    id="b7ad6b7169203331",
    parent="00f067aa0ba902b7",
    request="order-7",
    name="inventory",
    kind="call",
    begin_ns=1_000,
    duration_ns=500,
    failure="Refused: no room",
    service="web",
    replica="web.1",
    attributes={"method": "GET", "path": "/stock", "retries": 1},
)


def test_a_call_as_opentelemetry_knows_it() -> None:
    found = exported(SPAN, "shop")
    assert found is not None
    assert found.context is not None
    assert found.parent is not None
    assert (f"{found.context.trace_id:032x}", f"{found.context.span_id:016x}") == (SPAN.trace, SPAN.id)
    assert f"{found.parent.span_id:016x}" == SPAN.parent
    assert (found.name, found.kind, found.start_time, found.end_time) == ("GET inventory", SpanKind.CLIENT, 1000, 1500)
    assert (found.status.status_code, found.status.description) == (StatusCode.ERROR, "Refused: no room")
    assert dict(found.attributes or {}) == {
        "headway.request_id": "order-7",
        "headway.kind": "call",
        "http.request.method": "GET",
        "url.path": "/stock",
        "headway.retries": 1,
        "peer.service": "inventory",
    }
    resource = found.resource.attributes
    named = (resource["service.namespace"], resource["service.name"], resource["service.instance.id"])
    assert named == ("shop", "web", "web.1")


@pytest.mark.parametrize(
    "wrong", [{"id": "x"}, {"id": ""}, {"trace": "0" * 32}, {"parent": "f" * 17}, {"is_sampled": False}, {"id": "-1"}]
)
def test_what_has_no_ids_or_is_not_sampled_is_not_sent(wrong: dict[str, object]) -> None:
    told = {name: getattr(SPAN, name) for name in Span.__slots__}
    assert exported(Span(**(told | wrong)), "shop") is None
