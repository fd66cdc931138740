"""The decision of one tick: from what is remembered, wanted and observed to what is done next, and why. Pure.

Every rule lives in a module of its own: `lifecycle` (one replica), `placement` (how many), `adapting` (limits and
queues), `admission` (the edge).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headway.control.adapting import Adapted, adapt
from headway.control.admission import reconcile
from headway.control.lifecycle import adopt, advance
from headway.control.placement import place, starts
from headway.model.action import Action, CapReplica, ForgetReplica, Tell
from headway.model.observed import Observed
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Decision:
    """The replicas as remembered from now on, and the actions in the order they are to be carried out."""

    replicas: Mapping[str, Replica]
    actions: tuple[Action, ...]
    adapted: Adapted


def decide(
    replicas: Mapping[str, Replica],
    wanted: Wanted,
    observed: Observed,
    now_s: float,
    adapted: Adapted | None = None,
) -> Decision:
    """What to do in this tick; the same arguments always give the same decision."""
    actions: list[Action] = []
    held: dict[str, Replica] = {}
    for name in sorted(replicas):
        step = advance(
            replicas[name], observed.replicas.get(name), observed.edge, wanted.service(replicas[name].service), now_s
        )
        if step.replica is not None:
            held[name] = step.replica
        actions += step.actions
    for name in sorted(set(observed.replicas) - set(replicas)):
        # Started or left by a controller that died before it could write that down.
        if not observed.replicas[name].alive:
            actions.append(ForgetReplica(name, "nobody knows it"))
        elif stray := adopt(name, observed.replicas[name], now_s):
            held[name] = stray
            actions.append(Tell(name, "ran without being known: adopted, to be replaced"))
    if wanted.stopping:
        held = {name: replace(replica, leave=True) for name, replica in held.items()}
    elif observed.can_start:
        may_start = wanted.starts_max - sum(replica.phase is Phase.STARTING for replica in held.values())
        for service in wanted.services:
            mine = [replica for replica in held.values() if replica.service == service.name]
            # A service that waits for a database starts nothing, but it still lets go of what is not wanted.
            waits = not service.key or not observed.ready_databases.issuperset(service.waits_for)
            may = 0 if waits else max(0, may_start)
            placed, more = place(service, mine, observed, may_start=may, now_s=now_s, taken=replicas)
            held.update((replica.name, replica) for replica in placed)
            may_start -= starts(more)
            actions += more
    known = {service.name for service in wanted.services}
    for name, replica in held.items():
        if replica.service not in known and not replica.leave:
            held[name] = replace(replica, leave=True)
            actions.append(Tell(name, "leaves: its service is not declared any more"))
    adapted, told = adapt(adapted or Adapted(), held, wanted, observed, now_s)
    # A worker knows its cap before the edge lets more through.
    actions += [action for action in told if isinstance(action, CapReplica)]
    actions += reconcile(held.values(), wanted, observed, adapted.limits, adapted.slow)
    actions += [action for action in told if not isinstance(action, CapReplica)]
    return Decision(held, tuple(actions), adapted)
