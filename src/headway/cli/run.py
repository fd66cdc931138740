"""`headway run SERVICE -- COMMAND`: one command with a service's folder, interpreter and environment."""

from __future__ import annotations

import os
from pathlib import Path

from headway.cli.start import System
from headway.control.stored import Store
from headway.declaration.load import load
from headway.declaration.references import references, resolve_env
from headway.errors import HeadwayError
from headway.process.replace import replace_process


def run(system: System, service: str, command: tuple[str, ...]) -> int:
    """Becomes the command; returns only when it cannot be started. Database references need a running system."""
    applied = Store(system.folders.state, system.folders.run).load_applied() if system.client.is_running() else None
    if applied is not None:
        declared, root = applied.system, Path(applied.root)
        fields: dict[str, dict[str, str]] = system.client.ask("GET", "/databases")["databases"]
    else:
        loaded = load(None, cwd=Path.cwd(), environment=os.environ)
        declared, root, fields = loaded.system, loaded.root, {}
    if service not in declared.services:
        raise HeadwayError(f"there is no service {service!r}", hint=f"services are: {', '.join(declared.services)}")
    found = declared.services[service]
    missing = {piece.owner for _variable, piece in references(found)} - {"env", "file"} - set(fields)
    if missing:
        raise HeadwayError(
            f"services.{service}: the database {', '.join(sorted(missing))} has no address while nothing runs",
            hint="headway up --detach, then the same command again",
        )
    env = os.environ | resolve_env(found, databases=fields, environment=os.environ, root=root)
    env["HEADWAY_SERVICE"] = service
    if found.python:
        # `python` and the scripts of its environment are the service's own.
        env["PATH"] = f"{Path(found.python).parent}{os.pathsep}{env.get('PATH', '')}"
    return replace_process(command, folder=found.folder, env=env)
