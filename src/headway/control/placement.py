"""How many replicas a service has, and which: starts the missing, replaces one at a time, lets go of the rest. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from headway.control.lifecycle import BACKOFF_MAX_S, start
from headway.model.action import Action, StartReplica, Tell
from headway.model.observed import Observed
from headway.model.replica import Phase, Replica
from headway.model.wanted import WantedService

SILENT_S = 1.5  # without a beat for so long a replica may be fine, but another is not given up for it
SURGE = 1  # replicas above the declared number while one replaces another: memory for one more, never capacity less


def place(
    service: WantedService,
    replicas: Iterable[Replica],
    observed: Observed,
    *,
    may_start: int,
    now_s: float,
    taken: Collection[str] = (),
) -> tuple[list[Replica], list[Action]]:
    """All replicas of `service` after this tick, and what to do: at most `may_start` starts, no new name of `taken`."""
    held = {replica.name: replica for replica in replicas}
    actions: list[Action] = []

    def staying() -> list[Replica]:
        return [r for r in held.values() if not r.leave and r.phase not in (Phase.DRAINING, Phase.STOPPING)]

    def fresh() -> list[Replica]:
        return sorted((r for r in staying() if not r.retire), key=lambda r: r.number)

    def serves(replica: Replica) -> bool:
        """It answers users: ready, with a sign of life, and where they come through the edge, taken up there."""
        seen = observed.replicas.get(replica.name)
        if replica.phase is not Phase.READY or seen is None:
            return False
        # (All threads busy is no such sign: a saturated service must still be replaceable.)
        if service.kind == "app" and max(seen.beat_age_s, 0.0 if seen.is_wsgi else seen.loop_beat_age_s) > SILENT_S:
            return False
        if not service.is_at_edge:
            return True
        server = observed.edge.servers.get(replica.name)
        return server is not None and server.admin == "ready" and server.is_up

    # A replica that is not serving and is to be replaced costs nothing to take over: it starts with the new key.
    for replica in staying():
        if replica.phase is Phase.DOWN and service.key and replica.key != service.key:
            held[replica.name] = replace(
                replica, retire="", key=service.key, failures=0, told_loop=False, start_at_s=now_s
            )
    for replica in staying():
        if replica.phase is Phase.STARTING and service.key and replica.key != service.key:
            held[replica.name] = replace(replica, leave=True)

    # Over the number: the highest go first, those that do not serve before those that do.
    over = len(fresh()) - service.replicas
    if over > 0:
        order = sorted(fresh(), key=lambda r: (r.phase is Phase.READY, serves(r), -r.number))
        for replica in order[:over]:
            held[replica.name] = replace(replica, leave=True)
            actions.append(Tell(replica.name, f"leaves: {service.replicas} wanted"))

    # Retiring ones go one by one, each when another answers users in its place.
    retiring = sorted((r for r in staying() if r.retire), key=lambda r: (r.phase is Phase.READY, serves(r), r.number))
    ready = sum(serves(r) for r in staying())
    for replica in retiring:
        if replica.phase is not Phase.READY or ready > service.replicas or service.replicas == 0:
            held[replica.name] = replace(replica, leave=True)
            actions.append(Tell(replica.name, f"is replaced: {replica.retire}"))
            break

    # Missing ones start, as many as may.
    retiring_left = sum(1 for r in staying() if r.retire)
    room = service.replicas + (SURGE if retiring_left else 0) - len(staying())
    missing = min(service.replicas - len(fresh()), room)
    while missing > 0 and may_start > 0:
        replica = Replica(
            name=_free_name(service.name, {*held, *observed.replicas, *taken}),
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

    # Those that are down start again when their back-off has passed (or was of a clock that began anew, at a reboot)
    # and their last process is really gone: a killed one takes a moment.
    for replica in fresh():
        seen = observed.replicas.get(replica.name)
        is_time = replica.start_at_s <= now_s or replica.start_at_s > now_s + BACKOFF_MAX_S
        if replica.phase is Phase.DOWN and is_time and may_start > 0 and not (seen and seen.alive):
            held[replica.name], action = start(replica, now_s, service.key)
            actions.append(action)
            may_start -= 1
    return list(held.values()), actions


def _free_name(service: str, taken: Collection[str]) -> str:
    number = 1
    while f"{service}.{number}" in taken:
        number += 1
    return f"{service}.{number}"


def starts(actions: Iterable[Action]) -> int:
    """How many of `actions` start a process."""
    return sum(isinstance(action, StartReplica) for action in actions)
