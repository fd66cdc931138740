"""In which Python, and with which environment, an app's own tools run for a database."""

from __future__ import annotations

import sys
from pathlib import Path

from headway.control.stored import Applied
from headway.control.wanting import needs
from headway.declaration.paths import find_python
from headway.sharding.alembic import Alembic
from headway.sharding.app_tool import AppTool
from headway.sharding.django import Django


def tool_of(applied: Applied, database: str) -> AppTool | None:
    """The tool that is declared for a database's migrations: in the first service that uses it, else in the nearest
    `.venv`."""
    declared = applied.system.databases[database].migrations
    file = (declared.alembic or declared.django) if declared is not None else None
    if declared is None or file is None:
        return None
    kind = Alembic if declared.alembic is not None else Django
    for service in applied.system.services.values():
        used = needs(service, applied.system.databases)
        if database in used and service.python:
            plain = tuple(name for name in used if applied.system.databases[name].shards is None)
            return kind(file, service.python, service.folder, tuple(service.env.items()), used, applied.root, plain)
    folder = Path(file).parent
    return kind(file, find_python(folder, sys.executable), str(folder), (), (), applied.root)
