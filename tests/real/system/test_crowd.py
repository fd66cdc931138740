"""Ten thousand at once: a slow endpoint is asked by everybody in the same moment, and everybody is answered."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest
from harness import Running

from headway.lab.load import burst, load

pytestmark = pytest.mark.alone

COUNT = 10_000
APP = """
import asyncio
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await asyncio.sleep(5)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"late"})
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "slow:app"
replicas = 2
"""


def _rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.mark.timeout(180)
def test_ten_thousand_at_once_are_all_answered(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < COUNT + 1000 and not os.environ.get("CI"):
        pytest.skip(f"this shell may open {hard} descriptors, the clients alone need {COUNT}: ulimit -Hn 20000")
    (tmp_path / "slow.py").write_text(APP)
    with Running(tmp_path, DECLARATION) as system:
        pid = system.pid("edge")
        before = peak = _rss_bytes(pid)
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.1):
                peak = max(peak, _rss_bytes(pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            result = load(burst(system.url + "/", COUNT, deadline_s=60))
        finally:
            done.set()
            watcher.join()
        assert result.ok == COUNT, result.as_json()
        each_bytes = (peak - before) / COUNT
        assert each_bytes <= 8192, f"{each_bytes:.0f} bytes of the edge for each request"
        status = system.status()
        assert status["edge"]["reloads"] == 0
        assert {replica["restarts"] for replica in status["services"]["web"]["replicas"]} == {0}
        assert system.pid("edge") == pid
