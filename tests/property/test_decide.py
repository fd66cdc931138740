"""The decision over everything that could be remembered, wanted and seen, sensible or not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from headway.control.decide import Decision, decide
from headway.model.action import Action, EndReplica, ForgetReplica, ReplaceEdge, StartReplica, Tell
from headway.model.observed import EdgeObserved, EdgeServer, Failure, Observed, ReplicaObserved
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted, WantedService

SERVICES = ["web", "stock", "mail-er"]
NOW_S = 1000.0
seconds = st.floats(0.0, 2000.0, allow_nan=False)
counts = st.integers(0, 5)
names = st.builds(lambda service, number: f"{service}.{number}", st.sampled_from(SERVICES), st.integers(1, 6))
failures = st.none() | st.just(Failure("import", "cannot be imported"))


def replica_of(name: str) -> st.SearchStrategy[Replica]:
    service, _, number = name.rpartition(".")
    return st.builds(
        Replica,
        name=st.just(name),
        service=st.just(service),
        number=st.just(int(number)),
        key=st.sampled_from(["one", "two"]),
        phase=st.sampled_from(Phase),
        since_s=seconds,
        failures=counts,
        start_at_s=seconds,
        retire=st.sampled_from(["", "its declaration or source changed", "1 GiB resident"]),
        leave=st.booleans(),
        ready_once=st.booleans(),
        failure=failures,
        told_loop=st.booleans(),
    )


replicas_held = st.lists(names, unique=True, max_size=8).flatmap(
    lambda found: st.fixed_dictionaries({name: replica_of(name) for name in found})
)
services = st.builds(
    WantedService,
    name=st.sampled_from(SERVICES),
    kind=st.sampled_from(["app", "command"]),
    key=st.sampled_from(["one", "two", ""]),
    replicas=counts,
    limit=st.integers(1, 50),
    threads=st.integers(1, 8),
    is_at_edge=st.booleans(),
    waits_for=st.sampled_from([(), ("main",)]),
    memory_max_bytes=st.sampled_from([None, 100]),
    drain_timeout_s=st.sampled_from([0.0, 30.0]),
)
wanted_systems = st.builds(
    Wanted,
    services=st.lists(services, unique_by=lambda service: service.name, max_size=3).map(tuple),
    stopping=st.booleans(),
    starts_max=st.integers(1, 4),
)
processes = st.builds(
    ReplicaObserved,
    pid=st.integers(1, 9),
    alive=st.booleans(),
    exit_status=st.sampled_from([None, 0, 3, -9]),
    serving=st.booleans(),
    beat_age_s=st.sampled_from([0.0, 2.0, 60.0]),
    loop_beat_age_s=st.sampled_from([0.0, 2.0, 60.0]),
    is_wsgi=st.booleans(),
    in_flight=counts,
    streams=counts,
    rss_bytes=st.sampled_from([0, 200]),
    failure=failures,
)
servers = st.builds(
    EdgeServer, admin=st.sampled_from(["ready", "drain", "maint"]), is_up=st.booleans(), sessions=counts, limit=counts
)
edges = st.builds(
    EdgeObserved,
    pid=st.sampled_from([None, 1]),
    reachable=st.booleans(),
    unreachable_s=st.sampled_from([0.0, 0.5, 10.0]),
    answered=st.booleans(),
    servers=st.dictionaries(names, servers, max_size=6),
)
worlds = st.builds(
    Observed,
    replicas=st.dictionaries(names, processes, max_size=8),
    edge=edges,
    ready_databases=st.sampled_from([frozenset(), frozenset({"main"})]),
    can_start=st.booleans(),
)
situations = given(replicas_held, wanted_systems, worlds)
often = settings(max_examples=100, deadline=None)


def deeds(decision: Decision, *kinds: type[Action]) -> list[str]:
    return [action.replica for action in decision.actions if isinstance(action, kinds)]  # type: ignore[union-attr]


@situations
@often
def test_the_same_situation_gives_the_same_decision(
    held: Mapping[str, Replica], wanted: Wanted, observed: Observed
) -> None:
    again = dict(reversed(held.items()))
    first, second = decide(held, wanted, observed, NOW_S), decide(again, wanted, observed, NOW_S)
    assert first.actions == second.actions
    assert first.replicas == second.replicas


@situations
@often
def test_no_two_deeds_contradict_each_other(held: Mapping[str, Replica], wanted: Wanted, observed: Observed) -> None:
    decision = decide(held, wanted, observed, NOW_S)
    on_process = Counter(deeds(decision, StartReplica, EndReplica, ForgetReplica))
    on_server = Counter(
        action.replica
        for action in decision.actions
        if not isinstance(action, StartReplica | EndReplica | ForgetReplica | Tell | ReplaceEdge)
    )
    assert max([*on_process.values(), *on_server.values()], default=0) <= 1
    if any(isinstance(action, ReplaceEdge) for action in decision.actions):
        assert not on_server


@situations
@often
def test_names_are_unique_and_say_what_they_are(
    held: Mapping[str, Replica], wanted: Wanted, observed: Observed
) -> None:
    decision = decide(held, wanted, observed, NOW_S)
    for name, replica in decision.replicas.items():
        assert name == replica.name == f"{replica.service}.{replica.number}"
        assert re.fullmatch(r"[a-z-]+\.[1-9][0-9]*", name)


@situations
@often
def test_starts_are_within_bounds(held: Mapping[str, Replica], wanted: Wanted, observed: Observed) -> None:
    decision = decide(held, wanted, observed, NOW_S)
    started = deeds(decision, StartReplica)
    for name in started:
        process = observed.replicas.get(name)
        assert process is None or not process.alive
        assert decision.replicas[name].phase is Phase.STARTING
        assert decision.replicas[name].key
    starting = sum(replica.phase is Phase.STARTING for replica in decision.replicas.values())
    assert not started or starting <= wanted.starts_max
    if wanted.stopping or not observed.can_start:
        assert not started
    for service in wanted.services:
        staying = [
            r
            for r in decision.replicas.values()
            if r.service == service.name and not r.leave and r.phase not in (Phase.DRAINING, Phase.STOPPING)
        ]
        if any(name not in held and name.rpartition(".")[0] == service.name for name in started):
            assert len(staying) <= service.replicas + 1


@situations
@often
def test_nobody_is_forgotten_who_lives(held: Mapping[str, Replica], wanted: Wanted, observed: Observed) -> None:
    decision = decide(held, wanted, observed, NOW_S)
    alive = {name for name, process in observed.replicas.items() if process.alive}
    assert not alive & set(deeds(decision, ForgetReplica))
    assert alive <= set(decision.replicas)


@situations
@often
def test_no_healthy_replica_is_killed(held: Mapping[str, Replica], wanted: Wanted, observed: Observed) -> None:
    decision = decide(held, wanted, observed, NOW_S)
    for action in decision.actions:
        if isinstance(action, EndReplica) and action.how == "kill" and held[action.replica].phase is Phase.READY:
            process = observed.replicas[action.replica]
            assert max(process.beat_age_s, process.loop_beat_age_s) > 5.0
