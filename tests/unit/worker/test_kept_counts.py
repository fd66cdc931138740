"""Answers from a cache in the worker's counts: requests like any other, that say nothing of how long the work takes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from headway.model.overload import Counts
from headway.runtimes.local.counts import read_counts
from headway.worker import asgi, telemetry, wsgi
from headway.worker.serve import Worker
from headway.worker.tally import SAMPLE_EVERY
from headway.worker.target import Refusal

WORK_S = 0.02
LOADS = 3


def judge(before: Counts, after: Counts) -> None:
    """After some answers of the app, very many kept ones: all are counted, and the mean stays that of the work."""
    assert after.classes[0].completed - before.classes[0].completed == 40 * SAMPLE_EVERY
    assert sum(after.classes[0].histogram[:14]) >= 30 * SAMPLE_EVERY, "how long they took is counted as it was"
    mean_s = after.classes[0].service_s / after.classes[0].completed
    assert mean_s > WORK_S * 0.9
    assert after.routes == before.routes == ()
    assert after.classes[0].failed == before.classes[0].failed == 0


# That nothing is kept is told by 504 to those who want nothing else: no failure of the app's.
STATUSES = pytest.mark.parametrize("status", [200, 504])


@STATUSES
def test_asgi(tmp_path: Path, status: int) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if is_kept := scope["path"] == "/kept":
            scope["headway.kept"] = True
        else:
            await asyncio.sleep(WORK_S)
        await send({"type": "http.response.start", "status": status if is_kept else 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def run() -> None:
        slots = telemetry.create(str(tmp_path / "web.1.tele"))
        layer = asgi.Layer(app, slots, body_max_bytes=1, streams_max=1, failed=pytest.fail)

        async def ask(path: str) -> None:
            async def send(message: dict[str, Any]) -> None:
                return

            scope = {"type": "http", "method": "GET", "path": path, "scheme": "http", "headers": []}
            await layer(scope, send, send)  # type: ignore[arg-type]

        def counts() -> Counts:
            layer._beat(asyncio.get_running_loop())
            found = read_counts(slots)
            assert found is not None
            return found

        for _ in range(LOADS):
            await ask("/work")
        before = counts()
        for _ in range(40 * SAMPLE_EVERY):
            await ask("/kept")
        judge(before, counts())

    asyncio.run(run())


@STATUSES
def test_wsgi(tmp_path: Path, status: int) -> None:
    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if is_kept := environ["PATH_INFO"] == "/kept":
            environ["headway.kept"] = True
        else:
            time.sleep(WORK_S)
        start(f"{status if is_kept else 200} Told", [])
        return [b""]

    slots = telemetry.create(str(tmp_path / "web.1.tele"))
    layer = wsgi.Layer(app, slots, body_max_bytes=1, streams_max=1, threads=4)

    def ask(path: str) -> None:
        layer({"PATH_INFO": path, "REQUEST_METHOD": "GET"}, lambda *_: None)

    def counts() -> Counts:
        layer.pulse()
        found = read_counts(slots)
        assert found is not None
        return found

    for _ in range(LOADS):
        ask("/work")
    before = counts()
    for _ in range(40 * SAMPLE_EVERY):
        ask("/kept")
    judge(before, counts())


def test_an_interpreter_without_headway_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "headway.caching.client.responses_wsgi", None)
    worker = Worker({"telemetry": str(tmp_path / "web.1.tele"), "responses": [{}]})
    with pytest.raises(Refusal, match="cannot import what keeps responses") as refused:
        worker._keep_responses(object(), "wsgi")
    assert "pip install headway" in refused.value.hint
    assert Worker({"telemetry": str(tmp_path / "web.2.tele")})._keep_responses(worker, "wsgi") == (worker, "wsgi")
