"""One stretch of a request's time, as it is written down, read again, shown and exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The folder in which a replica keeps its spans, in the environment of the app; without it none are kept.
TRACE_VARIABLE = "HEADWAY_TRACE"
FILE_MAX_BYTES = 16 << 20  # of a replica there are two files of about this size
DROPPED = "dropped"  # key of a line in such a file that says how many had no room
WAITED_MS = "waited_ms"  # attribute: of its beginning so much was waiting for its turn

Value = str | int | float | bool
KINDS = ("edge", "queue", "service", "call", "database", "cache", "internal")


@dataclass(frozen=True, slots=True)
class Span:
    """Ids are those of OpenTelemetry, in hexadecimal; `begin_ns` is by the wall clock.

    `request` is the id by which people ask. `failure` says why it came to nothing, empty when it did not.
    """

    trace: str
    id: str
    parent: str
    request: str
    name: str
    kind: str
    begin_ns: int
    duration_ns: int
    failure: str = ""
    service: str = ""
    replica: str = ""
    is_sampled: bool = True  # what came from outside can say that it is not to be exported
    attributes: Mapping[str, Value] = field(default_factory=dict)

    @property
    def end_ns(self) -> int:
        return self.begin_ns + self.duration_ns

    @property
    def waited_ns(self) -> int:
        """How much of its beginning was waiting."""
        waited_ms = self.attributes.get(WAITED_MS, 0)
        return 0 if isinstance(waited_ms, str) else min(self.duration_ns, max(0, int(waited_ms * 1e6)))

    def document(self) -> dict[str, Any]:
        """As it is told: most of what is empty is left out."""
        found: dict[str, Any] = {
            "trace": self.trace,
            "span": self.id,
            "parent": self.parent,
            "request": self.request,
            "name": self.name,
            "kind": self.kind,
            "begin_ns": self.begin_ns,
            "duration_ns": self.duration_ns,
            "status": "error" if self.failure else "ok",
            "service": self.service,
        }
        if self.failure:
            found["failure"] = self.failure
        if self.replica:
            found["replica"] = self.replica
        if not self.is_sampled:
            found["sampled"] = False
        if self.attributes:
            found["attributes"] = dict(self.attributes)
        return found


def read_span(document: Any) -> Span | None:
    """What `Span.document` gave, or the shorter form of the files; None for anything else.

    In the files a request's id that is its trace's is left out, and the service of a replica, whose name tells it.
    """
    try:
        attributes = document.get("attributes", {})
        found = Span(
            trace=document["trace"],
            id=document["span"],
            parent=document["parent"],
            request=document.get("request", document["trace"]),
            name=document["name"],
            kind=document["kind"],
            begin_ns=document["begin_ns"],
            duration_ns=document["duration_ns"],
            failure=document.get("failure", ""),
            service=document.get("service", document.get("replica", "").rpartition(".")[0]),
            replica=document.get("replica", ""),
            is_sampled=document.get("sampled", True) is not False,
            attributes={str(key): value for key, value in attributes.items() if isinstance(value, Value)},
        )
    except (KeyError, TypeError, AttributeError):
        return None
    ids = (found.trace, found.id, found.parent, found.request)
    texts = (*ids, found.name, found.kind, found.failure, found.service, found.replica)
    if not all(isinstance(text, str) for text in texts):
        return None
    is_time = type(found.begin_ns) is int and type(found.duration_ns) is int and found.duration_ns >= 0
    return found if is_time else None
