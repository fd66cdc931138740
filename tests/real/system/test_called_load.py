"""More calls than a service can answer in time: the rest is refused at once, the least critical first."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from called import APP, caller
from harness import Running

pytestmark = pytest.mark.alone

DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "told:app"
routes = ["/"]
replicas = 1
uses = ["stock"]
[services.stock]
app = "told:app"
replicas = 1
limit = 2
slo = "300ms"
"""
THREADS, FOR_S, WARM_S = 40, 8.0, 3.0


def test_calls_beyond_the_queues_bound_are_refused_at_once_the_least_critical_first(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(APP)
    outcomes: list[tuple[str, str, float]] = []

    def run(level: str) -> None:
        with caller(system, "stock") as client:
            while time.monotonic() < until_s:
                began_s = time.monotonic()
                answer = client.get("/work", headers={"x-headway-criticality": level})
                why = answer.headers.get("x-headway-answered", str(answer.status_code))
                if why == "refused":
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                if began_s > warm_s:
                    outcomes.append((level, why, time.monotonic() - began_s))
                time.sleep(0.05 if answer.status_code == 503 else 0.0)

    with Running(tmp_path, DECLARATION) as system:
        warm_s, until_s = time.monotonic() + WARM_S, time.monotonic() + FOR_S
        threads = [threading.Thread(target=run, args=(("0", "3")[number % 2],)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        from_outside = httpx.get(system.url, timeout=30)
    counts = Counter((level, why) for level, why, _ in outcomes)
    assert {why for _, why, _ in outcomes} == {"200", "refused"}
    refused = sorted(took_s for _, why, took_s in outcomes if why == "refused")
    assert refused[len(refused) // 2] < 0.1
    assert counts["0", "200"] > 5 * counts["3", "200"]
    assert counts["0", "200"] + counts["3", "200"] > 0.6 * 40 * (FOR_S - WARM_S)  # 2 at once, 50 ms each
    assert from_outside.status_code == 200
