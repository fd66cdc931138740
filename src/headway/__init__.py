"""Headway takes a Python web app from one server to a fleet without rewriting it.

What the app imports from here is loaded when it is named: importing `headway` costs the user's app nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.sharding.client.database import database as database

__version__ = "0.1.0"
__all__ = ["__version__", "database"]


def __getattr__(name: str) -> Any:
    if name == "database":
        from headway.sharding.client.database import database

        globals()["database"] = database
        return database
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
