"""What a person changes on a running system: numbers of replicas, and holds that freeze automatic steps for a time.

All of it is journalled with who did it, survives the controller, and can be given back.
"""

from __future__ import annotations

import time
from typing import Any

from headway.control import wanting
from headway.control.controller import Controller
from headway.control.stored import Override
from headway.errors import Conflict, HeadwayError
from headway.model.declared import System
from headway.model.hold import Hold
from headway.model.units import format_duration

HOLD_S = 3600.0
HOLD_MAX_S = 7 * 24 * 3600.0
LIMIT_MAX = 100_000
_BY_MAX = 64


class ByHand:
    """Changes one controller's target; every method runs in its ticking thread."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def scale(self, service: str, count: int | None) -> dict[str, Any]:
        """Override a service's number of replicas; None gives it back to the declaration, or to the load."""
        controller = self._controller
        system, overrides = controller.applied.system, controller.overrides
        declared = controller.declared_replicas
        wanting.check_scale(system, service, declared.get(service, 0) if count is None else count, controller.machine)
        held = controller.holds.get(service)
        if held is not None and held.replicas is not None:
            raise Conflict(
                f"{service} is held at {held.replicas} replicas by {held.by}", hint=f"headway hold {service} --release"
            )
        before = controller.replicas[service]
        bounds = controller.ranges.get(service)
        if count is None or (count == declared[service] and bounds is None):
            overrides.pop(service, None)
        else:
            overrides[service] = Override(count, wanting.declared_as(system, controller.machine)[service])
        controller.store.save_overrides(overrides)
        now = controller.replicas[service]
        given_back = "given back to the load" if bounds is not None else "as declared"
        controller.journal.write(
            service, "scale", f"{before} → {now} replicas, {given_back if count is None else 'by hand'}"
        )
        controller.resolve()  # who asks for the status next sees what is wanted now
        return {
            "service": service,
            "before": before,
            "replicas": now,
            "declared": declared[service],
            "range": bounds.model_dump() if bounds is not None else None,
            "automatic": bounds is not None and service not in overrides,
        }

    def hold(
        self, service: str | None, *, limit: int | None, replicas: int | None, for_s: float, by: str
    ) -> dict[str, Any]:
        """Pin a service, or all of them, for `for_s`; without numbers each stays as it is."""
        controller = self._controller
        system, now_s = controller.applied.system, time.time()
        names = check_hold(system, service, limit=limit, replicas=replicas, for_s=for_s)
        if replicas is not None:
            wanting.check_scale(system, names[0], replicas, controller.machine)
        who = "".join(letter for letter in by if letter.isprintable())[:_BY_MAX] or "somebody"
        for name in names:
            hold = Hold(name, now_s + for_s, limit, replicas, who, now_s)
            controller.holds[name] = hold
            controller.journal.write(name, "hold", f"{hold.what}, by {who}, for {format_duration(for_s)}")
        controller.store.save_holds(controller.holds)
        controller.resolve()
        return {"holds": {name: controller.holds[name].told for name in names}}

    def release(self, service: str | None, *, by: str) -> dict[str, Any]:
        """Let go of a service, or of all that are held."""
        controller = self._controller
        if service is not None:
            _known(controller.applied.system, service)
        names = [name for name in controller.holds if service in (None, name)]
        for name in names:
            del controller.holds[name]
            controller.journal.write(name, "release", f"by {by or 'somebody'}")
        controller.store.save_holds(controller.holds)
        controller.resolve()
        return {"released": names}


def check_hold(
    system: System, service: str | None, *, limit: int | None, replicas: int | None, for_s: float
) -> tuple[str, ...]:
    """The services to hold; HeadwayError when what is asked for cannot be held."""
    if not 0 < for_s <= HOLD_MAX_S:
        raise HeadwayError("a hold lasts a week at most", hint="write it like --for 10m, and hold again before it ends")
    if limit is not None and not 1 <= limit <= LIMIT_MAX:
        raise HeadwayError(f"a limit of {limit} cannot be held: 1 to {LIMIT_MAX}", hint="write it like --limit 40")
    if service is None:
        if (limit is not None or replicas is not None) and len(system.services) > 1:
            raise HeadwayError("whose number is that?", hint=f"name the service, one of: {', '.join(system.services)}")
        names = tuple(system.services)
    else:
        _known(system, service)
        names = (service,)
    for name in names:
        if limit is not None and system.services[name].app is None:
            raise HeadwayError(f"{name} is a command: it gets no requests to limit", hint="leave --limit out")
    return names


def _known(system: System, service: str) -> None:
    if service not in system.services:
        known = ", ".join(system.services)
        raise HeadwayError(f"there is no service {service!r}", hint=f"services are: {known}")
