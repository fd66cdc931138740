"""`headway run SERVICE -- COMMAND`: one command with a service's folder, interpreter and environment."""

from __future__ import annotations

import os
from pathlib import Path

from headway.cli.start import System
from headway.control.stored import Store
from headway.control.wanting import caches_of, needs, told_of_caches, told_of_services
from headway.control.wanting import told as tell
from headway.declaration.load import load
from headway.declaration.references import references, resolve_env
from headway.errors import HeadwayError
from headway.process.replace import replace_process


def run(system: System, service: str, command: tuple[str, ...]) -> int:
    """Becomes the command; returns only when it cannot be started. References to addresses need a running system."""
    applied = Store(system.folders.state, system.folders.run).load_applied() if system.client.is_running() else None
    if applied is not None:
        declared, root = applied.system, Path(applied.root)
        told = system.client.ask("GET", "/databases")
        fields: dict[str, dict[str, str]] = told["databases"]
    else:
        loaded = load(None, cwd=Path.cwd(), environment=os.environ)
        declared, root, fields, told = (
            loaded.system,
            loaded.root,
            {},
            {"access": {}, "caches": {}, "services": {}, "folder": ""},
        )
    if service not in declared.services:
        raise HeadwayError(f"there is no service {service!r}", hint=f"services are: {', '.join(declared.services)}")
    found = declared.services[service]
    missing = {piece.owner for _variable, piece in references(found)} - {"env", "file"} - set(fields)
    if missing:
        raise HeadwayError(
            f"services.{service}: {', '.join(sorted(missing))} has no address while nothing runs",
            hint="headway up --detach, then the same command again",
        )
    env = os.environ | resolve_env(found, databases=fields, environment=os.environ, root=root)
    used = needs(found, declared.databases)
    env |= tell(found, {name: told["access"][name] for name in used if name in told["access"]}, told["folder"])
    caches = told["caches"]
    env |= told_of_caches({name: caches[name] for name in caches_of(found, declared.caches) if name in caches})
    env |= told_of_services(told["services"].get(service, {}), told["folder"])
    env["HEADWAY_SERVICE"] = service
    if found.python:
        # `python` and the scripts of its environment are the service's own.
        env["PATH"] = f"{Path(found.python).parent}{os.pathsep}{env.get('PATH', '')}"
    return replace_process(command, folder=found.folder, env=env)
