"""What happened, counted for each function of the app; the server keeps a process's counts for a few seconds."""

from __future__ import annotations

COUNTERS = (
    "hits_near",
    "hits_shared",
    "loads",
    "load_ms_sum",
    "waits",
    "stale",
    "errors",
    "refreshes",
    "overtaken",
    "too_large",
    "away",
    "bypassed",
)


class Counts:
    """The counts of one function."""

    __slots__ = COUNTERS

    def __init__(self) -> None:
        for name in COUNTERS:
            setattr(self, name, 0)

    hits_near: int  # answered from the tier in the process
    hits_shared: int  # from the server
    loads: int
    load_ms_sum: int
    waits: int  # calls that waited for a load that another had begun
    stale: int  # answered by a value past its time, while it was loaded again
    errors: int  # loads that raised; values that did not decode
    refreshes: int  # loads in the background, before the end
    overtaken: int  # loads whose value was not kept, for it was invalidated meanwhile
    too_large: int
    away: int  # calls that met no server
    bypassed: int  # requests that the app answered because they, or its answer, were not to be kept

    def fields(self, name: str) -> dict[str, int]:
        """The counts as the server keeps them, by `name:counter`."""
        return {f"{name}:{counter}": getattr(self, counter) for counter in COUNTERS}
