"""Slow and quick, important and unimportant, one service and another: an overload of one leaves the others alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Running, wait_for
from holding import BURN, DECLARATION, SLO_S, capacity, mix, offer, overload, system_of, tell, wait_told

from headway.lab.load import LoadResult, Request
from headway.lab.outcome import Part
from headway.lab.steady import SteadyLoad

pytestmark = pytest.mark.alone

# Four threads: four slow requests at once, without queues of their own, would leave nothing to the quick.
THREADS = DECLARATION.replace("costs:app", "costs:sync") + "threads = 4\n"
QUICK = Request(path="/quick?cpu=1&wait=4")
MARGIN_MS = 150.0  # others use the machine as well


def part(result: LoadResult, beginning: str) -> Part:
    """What became of one kind of requests."""
    (found,) = [part for part in result.requests if part.name.startswith(f"GET {beginning}")]
    return found


def quick_stays_quick(system: Running, slow: Request) -> None:
    """A flood of slow requests, five to one and several times what the threads can do, against quick ones."""
    calm = mix(system, 20, 3, (QUICK, Request(path="/also?cpu=1&wait=4")), deadline_s=5)
    flood = mix(system, 120, 5, (QUICK, Request(path=slow.path, weight=5)), deadline_s=5)
    quick, slow_part = part(flood, "/quick"), part(flood, slow.path.partition("?")[0])
    calm_ms, flood_ms = part(calm, "/quick").latency_ms["p99"], quick.latency_ms["p99"]
    assert slow_part.ok < slow_part.offered / 2, "the flood was none"
    assert slow_part.ok > 0
    assert quick.ok >= 0.95 * quick.offered
    assert calm_ms is not None
    assert flood_ms is not None
    assert flood_ms <= 5 * calm_ms + MARGIN_MS


def test_a_full_route_that_was_declared_slow_leaves_the_quick_ones_alone(tmp_path: Path) -> None:
    with system_of(tmp_path, THREADS + 'slo = "250ms"\nat = { "/slow" = { slo = "2s" } }\n') as system:
        quick_stays_quick(system, Request(path="/slow/7?wait=1000"))
        assert overload(system)["slow_routes"] == []


def test_a_route_is_learned_to_be_slow_and_then_leaves_the_quick_ones_alone(tmp_path: Path) -> None:
    declaration = THREADS.replace("threads = 4", "threads = 8") + 'slo = "500ms"\n'
    with system_of(tmp_path, declaration) as system:
        slow = Request(path="/reports/x?wait=250")
        # One in some requests is sampled: the two kinds come in turns of seven, so that both are.
        kinds = (Request(path=QUICK.path, weight=4), Request(path=slow.path, weight=3))
        with SteadyLoad(system.url, 60, requests=kinds, deadline_s=10, duration_max_s=60) as steady:
            wait_for(
                lambda: overload(system)["slow_routes"] == ["/reports"], 40, "a slow route is learned", every_s=0.2
            )
        tell("learning", steady.result)
        wait_told(system, "/reports queues by itself", about="web.slow")
        quick_stays_quick(system, slow)
        assert overload(system)["slow_routes"] == ["/reports"]
        status = system.quick_status()
        assert status is not None
        assert status["edge"]["reloads"] == 0


def test_the_most_critical_are_served_and_the_rest_is_not_starved(tmp_path: Path) -> None:
    declaration = DECLARATION + 'slo = "250ms"\nat = { "/pay" = { criticality = "critical_plus" } }\n'
    with system_of(tmp_path, declaration) as system:
        most = capacity(system, BURN)
        pay = Request(path="/pay" + BURN[1:], weight=1)
        rest = Request(path="/other" + BURN[1:], weight=9)
        mix(system, 4 * most, 2, (pay, rest), deadline_s=1)  # to learn from
        result = mix(system, 4 * most, 5, (pay, rest), deadline_s=1)
        print(overload(system)["classes"])
        assert part(result, "/pay").ok >= 0.95 * part(result, "/pay").offered
        assert part(result, "/other").ok > 0.03 * part(result, "/other").offered


TWO = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "costs:app"
routes = ["/"]
replicas = 1
slo = "250ms"
[services.other]
app = "costs:app"
routes = ["/other"]
replicas = 1
slo = "250ms"
"""


def test_an_overloaded_service_leaves_another_in_its_slo(tmp_path: Path) -> None:
    with system_of(tmp_path, TWO) as system:
        most = capacity(system, BURN)
        with SteadyLoad(system.url + "/other" + BURN[1:], 0.25 * most, slo_s=SLO_S, deadline_s=2) as steady:
            result = offer(system, 5 * most, 5, BURN)
        tell("the other", steady.result)
        assert result.refused > result.offered / 2
        assert steady.result.ok >= 0.9 * steady.result.offered
        assert steady.result.refused <= 0.02 * steady.result.offered
        assert not overload(system, "other")["overloaded"]
