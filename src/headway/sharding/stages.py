"""Long work by stages: a move, an import, a split, a restore. Pure.

A stage is recorded when its step is done, and every step can be done twice. So whoever goes on with the work after a
crash needs to know nothing but the record. Up to its commit point all of it can be undone; from there on it goes to its
end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Staged:
    """Work as it is recorded. Each kind says what its stages are."""

    forward: ClassVar[tuple[str, ...]]  # those it goes through, in their order, when it is not given up
    committed: ClassVar[frozenset[str]]  # those at and past the commit point
    ended: ClassVar[frozenset[str]]

    id: int
    stage: str
    facts: Mapping[str, object]  # what the steps have found, by name

    @property
    def abort_wanted(self) -> str:
        """Why somebody wants it given up; empty: nobody does."""
        return str(self.facts.get("abort", ""))

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.stage in self.ended

    @property
    def can_be_undone(self) -> bool:
        """Whether it is before its commit point, and not being undone already."""
        return self.stage in self.forward and self.stage not in self.committed

    def goes_on_to(self, stage: str) -> bool:
        """Whether that stage is a step towards the commit point: what is to be given up must not take it."""
        if not self.can_be_undone or stage not in self.forward:
            return False
        return self.forward.index(stage) >= self.forward.index(self.stage)

    def number(self, name: str) -> float:
        """A fact that is a number; 0 when it is not known yet."""
        value = self.facts.get(name)
        return float(value) if isinstance(value, (int, float)) else 0.0
