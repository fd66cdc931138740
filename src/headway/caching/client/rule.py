"""What holds for the values of one cached function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from headway.caching.client.counts import Counts
from headway.caching.codec import Codec
from headway.caching.weight import Scale

OnError = float | Literal["stale"] | None


@dataclass(frozen=True, slots=True)
class Rule:
    """How values of one kind are made, kept and given."""

    name: str
    codec: Codec
    ttl_s: float
    stale_s: float = 0.0  # after its time a value is given for so long, while one load replaces it
    on_error: OnError = None  # seconds for which a failed load is not tried again; "stale": the old value instead
    copy: bool = False  # decode for each caller, instead of sharing one object
    loads_max: int = 16  # loads under way at once in this process
    times: Callable[[Any], tuple[float, float]] | None = None  # a value's own seconds instead: fresh, and stale
    counts: Counts = field(default_factory=Counts)
    scale: Scale = field(default_factory=Scale)

    own_tags: Callable[[Any], tuple[bytes, ...]] | None = None  # those that a value names itself

    def times_of(self, value: Any) -> tuple[float, float]:
        """For how many seconds a value is fresh, and may be given after that; the server keeps it for both."""
        return (self.ttl_s, self.stale_s) if self.times is None else self.times(value)
