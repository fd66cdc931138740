"""Headway's spans as OpenTelemetry's, with its names for what they tell."""

from __future__ import annotations

from functools import lru_cache

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from headway import __version__
from headway.model.span import Span, Value

_SCOPE = InstrumentationScope("headway", __version__)
_KINDS = {
    "edge": SpanKind.SERVER,
    "service": SpanKind.SERVER,
    "call": SpanKind.CLIENT,
    "database": SpanKind.CLIENT,
}
_OF_CALLS = {"method": "http.request.method", "path": "url.path"}


def exported(span: Span, system: str) -> ReadableSpan | None:
    """One to export; None for one whose ids are no ids, or that is not to be sampled."""
    try:
        trace, own, parent = int(span.trace, 16), int(span.id, 16), int(span.parent or "0", 16)
    except ValueError:
        return None
    if not span.is_sampled or not 0 < trace < 1 << 128 or not 0 < own < 1 << 64 or not 0 <= parent < 1 << 64:
        return None
    is_edges = span.kind in ("edge", "queue")
    return ReadableSpan(
        name=_name(span),
        context=_context(trace, own),
        parent=_context(trace, parent) if parent else None,
        resource=_resource(system, "edge" if is_edges else span.service, "" if is_edges else span.replica),
        attributes=_attributes(span),
        kind=_KINDS.get(span.kind, SpanKind.INTERNAL),
        status=Status(StatusCode.ERROR, span.failure) if span.failure else Status(StatusCode.UNSET),
        start_time=span.begin_ns,
        end_time=span.end_ns,
        instrumentation_scope=_SCOPE,
    )


def _context(trace: int, own: int) -> SpanContext:
    return SpanContext(trace, own, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


@lru_cache(maxsize=1000)
def _resource(system: str, service: str, replica: str) -> Resource:
    """Who it is of; OTEL_RESOURCE_ATTRIBUTES in the environment say more."""
    told = {"service.namespace": system, "service.name": service or system}
    if replica:
        told["service.instance.id"] = replica
    return Resource.create(dict(told))


def _name(span: Span) -> str:
    """The same for all of a kind: what differs with each request is an attribute."""
    if span.kind == "edge":
        return str(span.attributes.get("http.request.method", "request"))
    if span.kind == "call":
        return f"{span.attributes.get('method', 'call')} {span.name}"
    return span.name


def _attributes(span: Span) -> dict[str, Value]:
    found: dict[str, Value] = {"headway.request_id": span.request, "headway.kind": span.kind}
    for key, value in span.attributes.items():
        named = _OF_CALLS.get(key, key) if span.kind == "call" else key
        found[named if "." in named else f"headway.{named}"] = value
    if span.kind == "database":
        found["db.system.name"] = "postgresql"
    if span.kind == "call":
        found["peer.service"] = span.name
    if span.kind == "edge" and span.service:
        found["headway.service"] = span.service
        found["headway.replica"] = span.replica
    return found
