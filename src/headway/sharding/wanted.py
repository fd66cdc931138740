"""What a sharded database is to look like, as all see it who make, change or mend its shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headway.model.sharding import Join


@dataclass(frozen=True, slots=True)
class Layout:
    """What is declared of a sharded database."""

    system: str
    name: str
    shards: int
    keys: Mapping[str, str]
    reference: tuple[str, ...]
    schema_file: Path | None
    joins: Mapping[str, Join] = field(default_factory=dict)
    import_from: str | None = None  # the plain database that has the rows until they are imported
    ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Its place in the declaration."""
        return f"databases.{self.name}"
