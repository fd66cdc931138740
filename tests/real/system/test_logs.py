"""Logs are bounded, and nothing that writes them notices."""

from __future__ import annotations

from pathlib import Path

import httpx
from harness import Running, wait_for

from headway.runtimes.local.logs import LOG_MAX_BYTES

APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    print("seen", scope["path"], flush=True)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "talker:app"
replicas = 1
"""


def test_logs_are_rotated_by_copy_and_truncate(tmp_path: Path) -> None:
    (tmp_path / "talker.py").write_text(APP)
    with Running(tmp_path, DECLARATION) as system:
        logs = system.folders.logs
        assert httpx.get(f"{system.url}/before?secret=1").status_code == 200
        # Each writes of a request when it has ended, and that may be after its answer.
        wait_for(lambda: b"/before" in (logs / "web.1.log").read_bytes(), 30, "the app has written")
        wait_for(lambda: b"/before" in (logs / "access.log").read_bytes(), 30, "the edge has written")
        for name in ("access.log", "web.1.log"):
            with (logs / name).open("ab") as file:  # what a busy day would have written
                file.write(b"x" * 99 + b"\n")
                file.truncate(LOG_MAX_BYTES + 1)
        # The edge has a place of its own in its file: it must write past the bound before it is rotated for good.
        wait_for(lambda: (logs / "web.1.log").stat().st_size < 1000, 30, "web.1.log is cut")
        wait_for(lambda: (logs / "access.log").stat().st_size < 1000, 30, "access.log is cut")
        assert httpx.get(f"{system.url}/after").status_code == 200
        wait_for(lambda: b"/after" in (logs / "web.1.log").read_bytes(), 30, "the app writes on")
        wait_for(lambda: b"after" in (logs / "access.log").read_bytes(), 30, "the edge writes on")
        for name in ("access.log", "web.1.log"):
            assert b"\0" not in (logs / name).read_bytes()
            assert b"before" in (logs / f"{name}.1").read_bytes()
            assert (logs / f"{name}.1").stat().st_mode & 0o077 == 0
        assert b"secret" not in (logs / "access.log.1").read_bytes()
        assert system.ok("logs", "web.1", "-n", "1").strip() == "seen /after"
