"""Headway takes a Python web app from one server to a fleet without rewriting it.

What the app imports from here is loaded when it is named: importing `headway` costs the user's app nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.caching.client.cache import cache as cache
    from headway.calls.client.service import service as service
    from headway.sharding.client.database import by_id as by_id
    from headway.sharding.client.database import database as database
    from headway.sharding.client.uuids import uuid7 as uuid7

__version__ = "0.1.0"
__all__ = ["__version__", "by_id", "cache", "database", "service", "uuid7"]
_HOMES = {
    "by_id": "headway.sharding.client.database",
    "cache": "headway.caching.client.cache",
    "database": "headway.sharding.client.database",
    "service": "headway.calls.client.service",
    "uuid7": "headway.sharding.client.uuids",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
