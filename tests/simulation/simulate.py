"""A whole system on virtual time: the real loop over the memory runtime, watched by the invariants.

`simulate(seed)` draws a system, what it is asked to do and what happens to it from one seed. When a promise breaks, the
error names the seed and shows the last lines of the journal; the same seed repeats the run to the letter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from invariants import Watch, unmet

from headway.control.journal import Journal
from headway.control.loop import TICK_S, Loop
from headway.model.action import Action
from headway.model.observed import Observed
from headway.model.replica import Replica
from headway.model.wanted import Wanted, WantedService
from headway.runtimes.memory import Behaviour, MemoryRuntime, Offer

CONVERGES_S = 120.0  # back-off (30), a start that never ends (8), a hang (10), a whole roll, drains (10): together
STOPS_S = 10.0 + 8.0 + 6.0  # drain_timeout, patience after asking, lost commands and removal from the edge


def app(name: str = "web", replicas: int = 2, **changes: object) -> WantedService:
    """A public app as the simulation has it: time-outs shorter than usual, so that more of them fit in a run."""
    service = WantedService(
        name=name,
        kind="app",
        key="one",
        replicas=replicas,
        limit=40,
        threads=8,
        is_at_edge=True,
        memory_max_bytes=512 << 20,
        start_timeout_s=8.0,
        drain_timeout_s=10.0,
    )
    return replace(service, **changes)  # type: ignore[arg-type]


class Recorded(Journal):
    """The journal with virtual time, kept whole."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(None)
        self.clock = clock
        self.lines: list[str] = []

    def write(self, about: str, what: str, reason: str, level: str = "note") -> None:
        self.lines.append(f"{self.clock():8.1f}  {about:10} {what}: {reason}")


class ControllerDied(Exception):
    """The controller was killed between two of its actions."""


@dataclass
class Mortal:
    """The runtime as a controller sees it that may die after some more actions."""

    inner: Watch
    actions_left: int | None = None
    refuses: Callable[[Action], bool] = lambda action: False  # a command that is lost every time

    def now_s(self) -> float:
        return self.inner.now_s()

    def observe(self, replicas: Mapping[str, Replica]) -> Observed:
        return self.inner.observe(replicas)

    def act(self, action: Action, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        if self.actions_left is not None:
            if self.actions_left == 0:
                raise ControllerDied
            self.actions_left -= 1
        if self.refuses(action):
            return "refused"
        return self.inner.act(action, replicas, wanted)

    def settle(self, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        return self.inner.settle(replicas, wanted)


@dataclass
class System:
    """One simulated system; every tick is checked."""

    seed: int
    wanted: Wanted
    world: MemoryRuntime = field(init=False)
    loop: Loop = field(init=False)
    watch: Watch = field(init=False)
    journal: Recorded = field(init=False)
    away_until_s: float = 0.0  # no controller until then

    def __post_init__(self) -> None:
        self.world = MemoryRuntime(self.seed)
        self.watch = Watch(self.world)
        self.journal = Recorded(self.world.now_s)
        self.mortal = Mortal(self.watch)
        self.loop = Loop(self.mortal, self.journal, self.wanted)
        self.world.settle({}, self.wanted)

    def service(self, name: str = "web") -> WantedService:
        found = self.loop.wanted.service(name)
        assert found is not None
        return found

    def want(self, name: str, **changes: object) -> None:
        """The declaration or an override changed one service."""
        services = tuple(replace(s, **changes) if s.name == name else s for s in self.loop.wanted.services)  # type: ignore[arg-type]
        self.set_wanted(replace(self.loop.wanted, services=services))

    def set_wanted(self, wanted: Wanted) -> None:
        self.wanted = self.loop.wanted = wanted

    def say(self, what: str) -> None:
        """A line in the journal that tells what the simulation did."""
        self.journal.write("*", "happens", what)

    def restart_controller(self, gap_s: float = 0.0) -> None:
        """The controller dies and comes back after `gap_s`, with what was stored."""
        self.away_until_s = self.world.now_s() + gap_s
        self.mortal.actions_left = None
        self.loop = Loop(self.mortal, self.journal, self.wanted, self.world.stored.replicas)

    def kill_controller_within(self, actions: int) -> None:
        """It dies in the middle of a tick, after so many more actions."""
        self.mortal.actions_left = actions

    def tick(self) -> None:
        self.world.advance(TICK_S)
        if self.world.now_s() < self.away_until_s:
            return
        try:
            actions = self.loop.tick()
        except ControllerDied:
            self.say("the controller was killed in the middle of a tick")
            self.restart_controller(gap_s=0.5)
            return
        try:
            self.watch.after_tick(self.loop, actions)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.tick()

    def until(self, condition: Callable[[], bool], within_s: float, what: str = "") -> float:
        """Tick until it holds; how long that took. AssertionError with the story when it does not within the bound."""
        started_s = self.world.now_s()
        while not condition():
            took_s = self.world.now_s() - started_s
            assert took_s < within_s, f"{what or 'not reached'} after {took_s:.1f} s: {self.unmet()}\n{self.story()}"
            self.tick()
        return self.world.now_s() - started_s

    def unmet(self) -> list[str]:
        """What is not as wanted yet."""
        return unmet(self.loop, self.world)

    def settled(self) -> bool:
        return not self.unmet()

    def settle(self, within_s: float = CONVERGES_S) -> float:
        return self.until(self.settled, within_s, "not as wanted")

    def stop(self) -> float:
        """Stop everything; how long it took."""
        self.set_wanted(replace(self.loop.wanted, stopping=True))
        took_s = self.until(lambda: not self.loop.replicas, STOPS_S, "not stopped")
        self.run(1.0)
        assert not self.world.processes.table, f"left: {self.world.processes.table}\n{self.story()}"
        assert not self.world.edge.servers, f"left: {self.world.edge.servers}\n{self.story()}"
        return took_s

    def story(self, lines: int = 60) -> str:
        return "\n".join([f"seed {self.seed}", *self.journal.lines[-lines:]])


# -- systems and events drawn from a seed ---------------------------------------------------------------------------


def draw_wanted(random: Random) -> Wanted:
    """One public app, perhaps a private one and a command, perhaps a database to wait for."""
    waits_for = ("main",) if random.random() < 0.3 else ()
    services = [app("web", random.randint(2, 4), waits_for=waits_for)]
    if random.random() < 0.4:
        services.append(app("stock", random.randint(1, 2), is_at_edge=False))
    if random.random() < 0.4:
        services.append(app("mailer", random.randint(1, 2), kind="command", is_at_edge=False, memory_max_bytes=None))
    return Wanted(tuple(services), starts_max=random.randint(1, 4))


@dataclass
class Fates:
    """What happens to a system: operations at any time, faults one after the other or all over each other."""

    system: System
    random: Random
    releases: int = 1
    good: dict[str, str] = field(default_factory=dict)  # the last release that works, by service
    ends: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def operate(self) -> None:
        """Somebody scales or deploys."""
        service = self.random.choice(self.system.loop.wanted.services)
        if self.random.random() < 0.5:
            number = self.random.randint(2, 4) if service.is_at_edge else self.random.randint(0, 2)
            self.system.say(f"{service.name}: scale to {number}")
            self.system.want(service.name, replicas=number)
        else:
            self.releases += 1
            self.system.say(f"{service.name}: release {self.releases}")
            self.good[service.name] = f"release {self.releases}"
            self.system.want(service.name, key=self.good[service.name])

    def strike(self, *, lossy: bool = True) -> None:
        """One fault."""
        world, random = self.system.world, self.random
        running = sorted(name for name, process in world.processes.table.items() if process.alive)
        faults = [self._edge_crashes, self._edge_hangs, self._controller_restarts, self._controller_dies]
        faults += [self._supervisor_leaves, self._release_breaks, self._database_leaves, self._scale_to_zero]
        if lossy:
            faults.append(self._commands_get_lost)
        if running and random.random() < 0.6:
            victim = random.choice(running)
            what = random.choice(["crash", "freeze", "stick", "leak"])
            self.system.say(f"{what} {victim}")
            match what:
                case "crash":
                    world.crash(victim, random.choice([-9, -11, 0, 1]))
                case "freeze":
                    world.freeze(victim, random.choice([0.3, 3.0, 1e9]))
                case "stick":
                    world.stick(victim, random.choice([1.0, 7.0, 1e9]))
                case _:
                    world.swell(victim, 1 << 30)
            return
        random.choice(faults)()

    def tick(self) -> None:
        """End what has lasted long enough."""
        now_s = self.system.world.now_s()
        for end in [end for end in self.ends if end[0] <= now_s]:
            self.ends.remove(end)
            end[1]()

    def end_all(self) -> None:
        """No fault goes on."""
        for _, end in self.ends:
            end()
        self.ends.clear()

    def _later(self, seconds: float, end: Callable[[], None]) -> None:
        self.ends.append((self.system.world.now_s() + seconds, end))

    def _edge_crashes(self) -> None:
        self.system.say("the edge crashes")
        self.system.world.crash_edge()

    def _edge_hangs(self) -> None:
        self.system.say("the edge hangs")
        self.system.world.hang_edge()
        if self.random.random() < 0.3:
            self._later(0.5, self.system.world.edge.wake)

    def _controller_restarts(self) -> None:
        self.system.say("the controller is killed")
        self.system.restart_controller(self.random.uniform(0.0, 3.0))

    def _controller_dies(self) -> None:
        self.system.kill_controller_within(self.random.randint(0, 3))

        def revive() -> None:
            self.system.mortal.actions_left = None

        self._later(10.0, revive)

    def _commands_get_lost(self) -> None:
        self.system.say("commands get lost")
        self.system.world.loses = self.random.uniform(0.2, 0.7)

        def again() -> None:
            self.system.world.loses = 0.0

        self._later(self.random.uniform(1.0, 5.0), again)

    def _supervisor_leaves(self) -> None:
        self.system.say("the supervisor is away")
        self.system.world.lose_supervisor(self.random.uniform(0.5, 4.0))

    def _release_breaks(self) -> None:
        service = self.random.choice(self.system.loop.wanted.services)
        self.releases += 1
        key = f"broken {self.releases}"
        fate = self.random.choice(["import", "crash", "never"])
        self.system.say(f"{service.name}: a release that ends in {fate}")
        self.system.world.behave(service.name, Behaviour(fate=fate), key)
        self.system.want(service.name, key=key)

        def revert() -> None:
            if self.system.service(service.name).key == key:
                self.system.want(service.name, key=self.good.get(service.name, "one"))

        self._later(self.random.uniform(2.0, 20.0), revert)

    def _database_leaves(self) -> None:
        self.system.say("the database is away")
        self.system.world.databases["main"] = self.system.world.now_s() + self.random.uniform(1.0, 5.0)

    def _scale_to_zero(self) -> None:
        private = [service for service in self.system.loop.wanted.services if not service.is_at_edge]
        if private:
            service = self.random.choice(private)
            self.system.say(f"{service.name}: scale to 0 and back")
            self.system.want(service.name, replicas=0)
            self._later(self.random.uniform(0.1, 3.0), lambda: self.system.want(service.name, replicas=1))


def healed(system: System) -> bool:
    """The last fault is over as far as capacity goes: the next one may come."""
    world = system.world
    if world.edge.state != "serving" or world.loses or system.mortal.actions_left is not None:
        return False
    if world.now_s() < max(world.supervisor_back_s, system.away_until_s) + 1.0:
        return False
    now_s = world.now_s()
    if any(max(p.frozen_until_s, p.stuck_until_s) > now_s for p in world.processes.table.values() if p.alive):
        return False
    for service in system.loop.wanted.services:
        mine = [p for p in world.processes.table.values() if p.service == service.name and p.works(now_s)]
        if service.is_at_edge:
            mine = [p for p in mine if (s := world.edge.servers.get(p.replica)) and s.admin == "ready" and s.is_up]
        if len(mine) < service.replicas:
            return False
    return True


def simulate(seed: int, *, storm: bool = False, seconds: float = 60.0) -> System:
    """One run: start, `seconds` of operations and faults, calm, the end. AssertionError when a promise breaks.

    Without `storm` a fault waits until the last one is healed: then nobody may notice any of them.
    """
    random = Random(f"{seed}/{storm}")
    system = System(seed, draw_wanted(random))
    system.watch.never_empty = not storm
    system.world.databases["main"] = random.uniform(0.0, 3.0)
    system.settle(60.0)
    system.world.offer("web", Offer(rate_per_s=random.choice([2.0, 10.0, 20.0]), deadline_s=60.0))
    fates = Fates(system, random)
    next_operation_s = next_fault_s = 0.0
    end_s = system.world.now_s() + seconds
    while (now_s := system.world.now_s()) < end_s:
        fates.tick()
        if now_s >= next_operation_s:
            next_operation_s = now_s + random.expovariate(1 / 15)
            if next_operation_s - now_s < 10:
                fates.operate()
        if now_s >= next_fault_s and (storm or (not fates.ends and healed(system))):
            next_fault_s = now_s + random.expovariate(1 / (2 if storm else 4))
            fates.strike()
        system.tick()
    fates.end_all()
    for process in system.world.processes.table.values():
        process.frozen_until_s = min(process.frozen_until_s, system.world.now_s() + 60)
    system.world.edge.wake()
    system.say("calm")
    system.settle()
    tally = system.world.tally("web")
    # The promise is for one fault at a time; a request that met four, one after the other, is outside of it.
    unexplained = tally.failed - tally.reasons["retries used up"]
    assert storm or not unexplained, f"failed: {tally.reasons}\n{system.story(200)}"
    system.run(random.uniform(0.0, 2.0))
    system.stop()
    return system
