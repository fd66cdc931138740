"""A steady load in the background while something is broken, scaled or deployed: then, who noticed?

    with SteadyLoad("http://127.0.0.1:8000/", rate_per_s=200, methods=("GET", "POST")) as steady:
        kill_a_replica()
        steady.wait_for(offered=400)
    assert steady.result.failed_requests == ()

It runs in a thread with an event loop of its own, so that the one who breaks things may block as long as he likes. Each
request carries a unique X-Load-Id: an origin that sees one twice was sent a request twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from types import TracebackType
from typing import Self

import uvloop

from headway.errors import HeadwayError
from headway.lab.engine import Engine
from headway.lab.load import prepare
from headway.lab.outcome import LoadResult, Progress
from headway.lab.plan import Connections, LoadPlan
from headway.lab.target import Request

# Name resolution and the probe before the first request.
_START_TIMEOUT_S = 60.0
_FAILURES_MAX = 10_000
_LOOK_S = 0.01


class SteadyLoad:
    """Loads `url` from entering the block until leaving it (`with` or `async with`), at most `duration_max_s`."""

    def __init__(
        self,
        url: str,
        rate_per_s: float,
        *,
        methods: tuple[str, ...] = ("GET",),
        requests: tuple[Request, ...] | None = None,  # instead of `methods`; sent in turn
        connections: Connections = "new",
        slo_s: float | None = None,
        deadline_s: float = 10.0,
        duration_max_s: float = 600.0,
        seed: int = 0,
        ca_file: str | None = None,
        insecure: bool = False,
    ) -> None:
        self.plan = LoadPlan(
            url,
            rate_per_s,
            duration_max_s,
            requests=requests or tuple(Request(method) for method in methods),
            connections=connections,
            slo_s=slo_s,
            deadline_s=deadline_s,
            seed=seed,
            ca_file=ca_file,
            insecure=insecure,
            identify=True,
            failures_max=_FAILURES_MAX,
        )
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steady-load", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None
        self._result: LoadResult | None = None
        self._error: BaseException | None = None

    @property
    def result(self) -> LoadResult:
        """What was measured; there once the block was left."""
        if self._result is None:
            raise HeadwayError("the steady load has no result yet", hint="leave its block first")
        return self._result

    def progress(self) -> Progress:
        """How it stands now; may be asked from any thread while the block is entered."""
        if self._engine is None:
            raise HeadwayError("the steady load does not run", hint="enter its block first")
        return self._engine.progress()

    def wait_for(self, *, offered: int, timeout_s: float = 30.0) -> Progress:
        """Block until that many requests were offered in all. HeadwayError when that takes longer than `timeout_s`."""
        until_s = time.monotonic() + timeout_s
        while (progress := self.progress()).offered < offered:
            if self._error is not None:
                raise self._error
            if time.monotonic() > until_s or not self._thread.is_alive():
                raise HeadwayError(
                    f"the steady load offered {progress.offered:,} of {offered:,} requests within {timeout_s:g} s",
                    hint="wait longer, or raise its rate",
                )
            time.sleep(_LOOK_S)
        return progress

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait(_START_TIMEOUT_S)
        if self._error is not None:
            self._thread.join(_START_TIMEOUT_S)
            raise self._error
        if self._engine is None:
            raise HeadwayError(f"the steady load did not start within {_START_TIMEOUT_S:g} s", hint="try again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._engine is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it may just have come to its own end and closed its loop
                self._loop.call_soon_threadsafe(self._engine.stop)
        self._thread.join(self.plan.deadline_s + _START_TIMEOUT_S)
        # An error of the block itself is the one to see.
        if self._error is not None and error is None:
            raise self._error

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._load())
        except BaseException as error:  # carried to the thread that owns the block
            self._error = error
        finally:
            self._started.set()

    async def _load(self) -> None:
        engine = await prepare(self.plan)
        self._loop, self._engine = asyncio.get_running_loop(), engine
        self._started.set()
        self._result = await engine.run()
