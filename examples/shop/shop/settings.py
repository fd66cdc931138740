"""What the shop reads from its environment, in one place."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEVELOPMENT_KEY = "development-only"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the data is and what signs the cookies."""

    database_url: str
    secret_key: str
    media: Path

    @classmethod
    def from_environment(cls) -> Settings:
        """DATABASE_URL (default: a SQLite file), SECRET_KEY, and MEDIA_DIR, relative to the working folder."""
        secret_key = os.environ.get("SECRET_KEY", "")
        if not secret_key:
            warnings.warn("SECRET_KEY is not set: cookies are signed with a key that everybody knows", stacklevel=2)
            secret_key = DEVELOPMENT_KEY
        return cls(
            database_url=os.environ.get("DATABASE_URL") or f"sqlite:///{Path.cwd() / 'shop.sqlite3'}",
            secret_key=secret_key,
            media=Path(os.environ.get("MEDIA_DIR") or "media").resolve(),
        )
