"""What Headway tells the app of the services it calls, in its environment.

A service that is not in `HEADWAY_SERVICES` has not been declared, or the calling service does not list it in `uses`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headway.errors import NotRunning
from headway.model.calls import CALLS_MAX, SERVICES_VARIABLE
from headway.model.sharding import RUN_VARIABLE

DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Told:
    """One service: where the edge takes calls for it, and until when an answer is waited for."""

    name: str
    socket: str
    deadline_s: float
    calls_max: int  # calls to it that this process may have under way
    caller: str  # the service that this process belongs to; may be empty
    folder: Path | None  # where this process tells what it counts; None: nowhere


def told(name: str, environ: Mapping[str, str] | None = None) -> Told:
    """What is told of service `name`. NotRunning, with what to do, when nothing is."""
    environ = os.environ if environ is None else environ
    text = environ.get(SERVICES_VARIABLE, "")
    caller = environ.get("HEADWAY_SERVICE", "")
    if not text and caller:
        raise _not_used(name, ())
    if not text:
        raise NotRunning(
            f"service {name}: this process was not started by Headway",
            hint=f"Start it by `headway up` or `headway run SERVICE -- COMMAND`, in a service with uses = ['{name}'].",
        )
    try:
        services = json.loads(text)
        if name not in services:
            raise _not_used(name, services)
        run = environ.get(RUN_VARIABLE, "")
        return Told(
            name=name,
            socket=str(services[name]["socket"]),
            deadline_s=float(services[name].get("deadline_s", DEADLINE_S)),
            calls_max=max(1, int(services[name].get("calls_max", CALLS_MAX))),
            caller=caller,
            folder=Path(run) / "calls" if run else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotRunning(
            f"{SERVICES_VARIABLE} cannot be read: {type(error).__name__}",
            hint="Headway sets it; an app of another version than Headway may not know its form.",
        ) from None


def _not_used(name: str, services: object) -> NotRunning:
    known = ", ".join(services) if isinstance(services, dict) else ""
    return NotRunning(
        f"service {name} is not among those that this service calls ({known or 'it calls none'})",
        hint=f'Declare [services.{name}], and list it in the calling service: uses = ["{name}"].',
    )
