"""How many replicas a service has, and which: starts the missing, replaces one at a time, lets go of the rest. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from headway.control.lifecycle import start
from headway.model.action import Action, StartReplica, Tell
from headway.model.replica import Phase, Replica
from headway.model.wanted import WantedService

SURGE = 1  # replicas above the declared number while one replaces another: memory for one more, never capacity less


def place(
    service: WantedService,
    replicas: Iterable[Replica],
    *,
    may_start: int,
    now_s: float,
) -> tuple[list[Replica], list[Action]]:
    """All replicas of `service` after this tick, and what to do. At most `may_start` starts."""
    held = {replica.name: replica for replica in replicas}
    actions: list[Action] = []

    def staying() -> list[Replica]:
        return [r for r in held.values() if not r.leave and r.phase not in (Phase.DRAINING, Phase.STOPPING)]

    def fresh() -> list[Replica]:
        return sorted((r for r in staying() if not r.retire), key=lambda r: r.number)

    # A replica that is not serving and is to be replaced costs nothing to take over: it starts with the new key.
    for replica in staying():
        if replica.phase is Phase.DOWN and replica.key != service.key:
            held[replica.name] = replace(replica, retire="", key=service.key, failures=0, start_at_s=now_s)
    for replica in staying():
        if replica.phase is Phase.STARTING and replica.key != service.key:
            held[replica.name] = replace(replica, leave=True)

    # Over the number: the highest go first, those that do not serve before those that do.
    over = len(fresh()) - service.replicas
    if over > 0:
        order = sorted(fresh(), key=lambda r: (r.phase is Phase.READY, -r.number))
        for replica in order[:over]:
            held[replica.name] = replace(replica, leave=True)
            actions.append(Tell(replica.name, f"leaves: {service.replicas} wanted"))

    # Retiring ones go one by one, each when another is ready in its place.
    retiring = sorted((r for r in staying() if r.retire), key=lambda r: (r.phase is Phase.READY, r.number))
    ready = sum(1 for r in staying() if r.phase is Phase.READY)
    for replica in retiring:
        if replica.phase is not Phase.READY or ready > service.replicas or service.replicas == 0:
            held[replica.name] = replace(replica, leave=True)
            actions.append(Tell(replica.name, f"is replaced: {replica.retire}"))
            ready -= replica.phase is Phase.READY
            break

    # Missing ones start, as many as may.
    retiring_left = sum(1 for r in staying() if r.retire)
    room = service.replicas + (SURGE if retiring_left else 0) - len(staying())
    missing = min(service.replicas - len(fresh()), room)
    while missing > 0 and may_start > 0:
        replica = Replica(
            name=_free_name(service.name, held),
            service=service.name,
            number=0,
            key=service.key,
            phase=Phase.DOWN,
            since_s=now_s,
        )
        replica = replace(replica, number=int(replica.name.rpartition(".")[2]))
        held[replica.name], action = start(replica, now_s, service.key)
        actions.append(action)
        missing, may_start = missing - 1, may_start - 1

    # Those that are down start again when their back-off has passed.
    for replica in fresh():
        if replica.phase is Phase.DOWN and replica.start_at_s <= now_s and may_start > 0:
            held[replica.name], action = start(replica, now_s, service.key)
            actions.append(action)
            may_start -= 1
    return list(held.values()), actions


def _free_name(service: str, held: dict[str, Replica]) -> str:
    number = 1
    while f"{service}.{number}" in held:
        number += 1
    return f"{service}.{number}"


def starts(actions: Iterable[Action]) -> int:
    """How many of `actions` start a process."""
    return sum(isinstance(action, StartReplica) for action in actions)
