"""What limits and queues are known to fail at, each as a world that can be played again: for tests and for pictures.

The app of most of them computes 2 ms and waits 10 ms for a request: 500 a second are all that it can do, and 10x are
5,000. `played` keeps what was played once in a process; nobody changes a world that is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from overload_world import Route, World, liar

from headway.model.overload import Counts

APP = Route()
CAPACITY_PER_S = 500.0
HEAVY = replace(APP, cpu_s=3 * APP.cpu_s)
PATIENT = replace(APP, wait_s=0.1)
HANGING = replace(APP, wait_s=3.0, gives_up_s=0.9)  # nothing good comes back, and it gives up after 0.9 s


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world from its beginning to `end_s`, and what happens to it at which second."""

    name: str
    title: str
    end_s: float
    play: Callable[[World], object]
    begin: Callable[[int], World] = lambda seed: World(APP, seed=seed)
    marks: tuple[tuple[float, str], ...] = ()


SCENARIOS: dict[str, Scenario] = {}


@cache
def played(name: str, seed: int = 1) -> World:
    """The world of a scenario after its end."""
    scenario = SCENARIOS[name]
    world = scenario.begin(seed)
    scenario.play(world)
    return world.until(scenario.end_s)


def _add(*scenarios: Scenario) -> None:
    SCENARIOS.update({scenario.name: scenario for scenario in scenarios})


def steady(rate_per_s: float) -> Callable[[World], object]:
    """The same load all the time."""
    return lambda world: world.offer(rate_per_s)


def turns(*apps: tuple[float, Route], rate_per_s: float) -> Callable[[World], object]:
    """The same load, on an app that becomes another at those seconds."""

    def play(world: World) -> None:
        world.offer(rate_per_s)
        for at_s, app in apps:
            world.until(at_s)
            world.app = (app,)

    return play


def loads(*rates: tuple[float, float]) -> Callable[[World], object]:
    """A load of so much from each of those seconds on."""

    def play(world: World) -> None:
        for at_s, rate_per_s in rates:
            world.until(at_s)
            world.offer(rate_per_s)

    return play


def hot_rows(in_flight: int) -> float:
    """Transactions that wait for each other's locks: the more at once, the less gets done."""
    return 0.005 * (1 + (in_flight / 12) ** 2)


HOT = Route(cpu_s=0.0005, wait_s=hot_rows)
BEYOND = Route(cpu_s=0.001, wait_s=0.4)  # 0.4 s where 0.25 s were promised
TENFOLD = 10 * CAPACITY_PER_S


def lossy(seed: int) -> Callable[[Counts], Counts | None]:
    """Seven of ten readings get lost."""
    random = Random(seed)
    return lambda counts: counts if random.random() < 0.3 else None


def _delayed(seed: int) -> World:
    world = World(APP, seed=seed)
    world.tells, world.delay_s = lossy(seed), 0.3
    return world


def _robbed(seed: int) -> World:
    world = World(Route(cpu_s=0.02), seed=seed)
    world.robbed_s = 0.1
    return world


def _lying(seed: int) -> World:
    world = World(APP, seed=seed)
    world.tells = liar
    return world


def _falls_silent(world: World) -> None:
    world.offer(1000.0)
    world.until(10.0)
    world.tells = lambda counts: None
    world.until(20.0)
    world.tells = lambda counts: counts


def _hangs(world: World) -> None:
    world.offer(1500.0)
    world.until(10.0)
    world.app = (replace(APP, wait_s=lambda _: 30.0 - world.now_s),)  # whatever began comes back at the same moment
    world.until(30.0)
    world.app = (APP,)


def _at_once(requests: int) -> Callable[[World], object]:
    return lambda world: world.burst(requests)


def _oscillates(world: World) -> None:
    for half in range(60):
        world.until(half / 2)
        world.offer(1500.0)
        world.until(half / 2 + 0.25)
        world.offer(50.0)


QUICK, SLOW = replace(APP, prefix="/quick"), Route("/reports", cpu_s=0.004, wait_s=1.0)
FAILING = replace(APP, fails_share=0.5)
EATING = replace(PATIENT, request_bytes=4 << 20)
MEMORY_SHARE_BYTES = 256 << 20

_add(
    Scenario("tenfold", "Ten times what it can carry", 20.0, steady(TENFOLD)),
    Scenario(
        "fiftyfold",
        "Fifty times what an app of 20 ms can carry",
        20.0,
        steady(2500.0),
        lambda seed: World(Route(cpu_s=0.02), seed=seed),
    ),
    Scenario("robbed", "The same while others take half of its core", 20.0, steady(2500.0), _robbed),
    Scenario("constant-gradient", "300 s of twice what it can carry", 300.0, steady(1000.0)),
    Scenario("near-capacity", "Nine tenths of what it can carry", 60.0, steady(450.0)),
    Scenario(
        "constant-timeout",
        "What it waits for hangs, and it gives up after 0.9 s",
        40.0,
        turns((10.0, HANGING), (30.0, APP), rate_per_s=1500.0),
        marks=((10.0, "hangs"), (30.0, "is back")),
    ),
    Scenario(
        "lasting-timeout",
        "The same for two minutes",
        140.0,
        turns((10.0, HANGING), (130.0, APP), rate_per_s=1500.0),
    ),
    Scenario(
        "nothing-comes",
        "Nothing comes back for 20 s",
        50.0,
        _hangs,
        marks=((10.0, "hangs"), (30.0, "is back")),
    ),
    Scenario(
        "faster-again",
        "Slow for a minute, then as quick as before",
        120.0,
        turns((10.0, replace(HEAVY, wait_s=0.1)), (70.0, APP), rate_per_s=1500.0),
        marks=((10.0, "slow"), (70.0, "quick again")),
    ),
    Scenario(
        "fast-errors",
        "Half of the answers are quick errors",
        40.0,
        turns((10.0, FAILING), (30.0, APP), rate_per_s=TENFOLD),
        marks=((10.0, "errors"), (30.0, "none")),
    ),
    Scenario(
        "slow-and-quick",
        "Reports of a second between requests of 12 ms",
        30.0,
        steady(200.0),
        lambda seed: World(replace(QUICK, share=0.8), replace(SLOW, share=0.2), seed=seed),
    ),
    Scenario("cold", "Ten times too much from the first request on", 10.0, steady(TENFOLD)),
    Scenario(
        "cold-crowd",
        "2,000 requests at once, of five seconds each, to an app that nobody has asked yet",
        20.0,
        _at_once(2000),
        lambda seed: World(Route(cpu_s=0.0005, wait_s=5.0), seed=seed, slo_s=None),
    ),
    Scenario(
        "oscillating",
        "A load that comes and goes twice a second",
        30.0,
        _oscillates,
        lambda seed: World(PATIENT, seed=seed),
    ),
    Scenario("quick-oscillating", "A load that comes and goes twice a second, on a quick app", 30.0, _oscillates),
    Scenario(
        "computes-longer",
        "It computes three times as long, at ten times what it can carry",
        30.0,
        turns((10.0, HEAVY), rate_per_s=TENFOLD),
        marks=((10.0, "6 ms instead of 2"),),
    ),
    Scenario(
        "waits-longer",
        "It waits ten times as long, at ten times what it can carry",
        30.0,
        turns((10.0, PATIENT), rate_per_s=TENFOLD),
        marks=((10.0, "100 ms instead of 10"),),
    ),
    Scenario(
        "hot-rows",
        "Rows that all requests lock: the more at once, the less gets done",
        30.0,
        steady(5000.0),
        lambda seed: World(HOT, seed=seed),
    ),
    Scenario(
        "burst",
        "Three seconds of ten times, then 0.7 times what it can carry",
        10.0,
        loads((0.0, 0.7 * CAPACITY_PER_S), (2.0, TENFOLD), (5.0, 0.7 * CAPACITY_PER_S)),
        marks=((2.0, "10x"), (5.0, "0.7x")),
    ),
    Scenario("liar", "A worker that claims to take no time", 20.0, steady(TENFOLD), _lying),
    Scenario(
        "silence",
        "A worker that tells nothing for ten seconds",
        30.0,
        _falls_silent,
        marks=((10.0, "tells nothing"), (20.0, "tells again")),
    ),
    Scenario("late-telling", "Seven of ten readings lost, the rest 0.3 s late", 30.0, steady(TENFOLD), _delayed),
    Scenario(
        "beyond-slo",
        "Requests that take 0.4 s where 0.25 s were promised",
        120.0,
        steady(3000.0),
        lambda seed: World(BEYOND, seed=seed),
    ),
    Scenario(
        "from-beyond-slo",
        "Requests that take 0.4 s where 0.25 s were promised, and are quick then",
        150.0,
        turns((120.0, APP), rate_per_s=3000.0),
        lambda seed: World(BEYOND, seed=seed),
    ),
    Scenario(
        "memory",
        "4 MiB a request, in a share of 256 MiB",
        20.0,
        steady(TENFOLD),
        lambda seed: World(EATING, seed=seed, memory_share_bytes=MEMORY_SHARE_BYTES),
    ),
    Scenario(
        "two-replicas",
        "Two replicas, ten times what both can carry",
        20.0,
        steady(2 * TENFOLD),
        lambda seed: World(APP, seed=seed, replicas=2),
    ),
)
