"""A database dies or hangs beneath a service that others call: what the callers get, when, and what does not notice."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from calling import APP, load
from harness import Running, wait_for

# web calls stock, stock asks its database.
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "chain:app"
routes = ["/"]
replicas = 2
deadline = "8s"
uses = ["stock"]
env = { NEXT = "stock" }
[services.stock]
app = "chain:app"
replicas = 2
uses = ["main"]
[databases.main]
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("shop")
    (folder / "chain.py").write_text(APP)
    with Running(folder, DECLARATION) as system:
        yield system


def is_answered(shop: Running) -> bool:
    answer = httpx.get(f"{shop.url}/needed", timeout=30)
    return answer.status_code == 200 and answer.json()["next"]["value"] == 7


def test_a_killed_database_costs_those_who_need_it_alone_and_is_back_by_itself(shop: Running) -> None:
    assert is_answered(shop)
    before = shop.pid("database.main")
    with (
        load(f"{shop.url}/spared", 4) as spared,
        load(f"{shop.url}/needed", 2) as needed,
        load(f"{shop.url}/plain", 2) as plain,
    ):
        wait_for(lambda: needed.count > 50, 60, "the load goes on")
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: shop.processes().get("database.main", before) != before, 60, "another server runs")
        count = plain.count
        wait_for(lambda: plain.count > count + 50, 60, "the load goes on")
        wait_for(lambda: is_answered(shop), 60, "stock answers again")
    assert set(plain.found) == {200}, plain.found
    assert set(spared.found) == {200}, spared.found
    # A statement that is cut in the middle is the driver's own error in the app: two clients, one statement each.
    assert set(needed.found) <= {200, 500, 503}, needed.found
    assert needed.found[500] <= 2
    assert max(made.slowest_s for made in (spared, needed, plain)) < 20.0  # the deadline of web, and a busy machine


def test_a_hung_database_holds_its_callers_no_longer_than_their_deadline(shop: Running) -> None:
    wait_for(lambda: is_answered(shop), 60, "stock answers")
    # As where its machine is gone: nothing answers, and nothing is refused.
    server = shop.pid("database.main")
    family = [server]
    with load(f"{shop.url}/plain", 2) as plain, load(f"{shop.url}/spared", 4) as spared:
        wait_for(lambda: spared.count > 50, 60, "the load goes on")
        os.kill(server, signal.SIGSTOP)  # first: it makes no more of them
        family += map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())
        try:
            for pid in family[1:]:
                os.kill(pid, signal.SIGSTOP)
            refused = httpx.get(f"{shop.url}/needed", timeout=30)
            count = plain.count
            wait_for(lambda: plain.count > count + 100, 30, "what needs no stock is answered")
        finally:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        wait_for(lambda: is_answered(shop), 60, "stock answers again")
    assert refused.status_code in (503, 504), refused.text
    assert refused.elapsed.total_seconds() < 20.0
    assert set(plain.found) == {200}, plain.found
    assert set(spared.found) == {200}, spared.found
    assert max(plain.slowest_s, spared.slowest_s) < 20.0
