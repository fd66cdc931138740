"""What a repair does and what it leaves to a person: mends, in the order to carry them out, and decisions. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "subscription",
    "slot",
    "publication",
    "doubt",
    "half",
    "point",
    "aside",
    "lay_out",
    "corner",
    "release",
    "open",
    "constrain",
    "triggers",
    "rights",
    "fill",
]
# What is linked first, so that nothing flows any more; then where shards are; then what is in them. Triggers of a
# split go before a half gets another name, for they write to it; an import's corner when the shards that
# it closes are empty.
ORDER: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Mend:
    """One thing that is wrong, why it may be mended, and how it is."""

    kind: Kind
    what: str
    why: str
    how: str
    server: str = ""
    shard: int | None = None
    name: str = ""  # of a link, a transaction, a table, or the server to point to

    @property
    def line(self) -> str:
        """For people."""
        return f"{self.what}; {self.why}: {self.how}"


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that is wrong and that a person has to decide, and how that is done."""

    what: str
    why: str
    how: str

    @property
    def line(self) -> str:
        """For people."""
        return f"{self.what}; {self.why}: {self.how}"
