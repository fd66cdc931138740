"""One worker process: imports the app, wraps it, and serves it with granian on its own unix socket.

granian's usual main process, which would spawn and respawn workers, is left out: placing, restarting and draining are
the controller's, and a process less is 20 MB less. The server object is granian's own and builds the worker exactly as
granian would; only its target runs here instead of in a child.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from . import asked, telemetry  # the app looks for `asked` among the loaded modules while it is imported
from .target import Refusal, load_app, tell_apart
from .telemetry import Slot, Stage

_BEAT_S = 0.1
_IDLE_CONNECTION_MS = (
    3_600_000  # the edge closes idle connections; a worker that does it first loses a race with a POST
)
_WSGI_STOP_S = 3.0  # for open answers to end, once asked to; what is in an app's own hands by then is cut
_EXIT_REFUSED = 3


class Worker:
    """The process of one replica, from its settings file."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.slots = telemetry.create(settings["telemetry"])
        self.slots[Slot.BEAT_NS] = self.slots[Slot.LOOP_BEAT_NS] = time.monotonic_ns()
        self._wsgi: Any = None

    def refuse(self, kind: str, message: str, hint: str, detail: str = "") -> None:
        """Leave word for the controller why this worker cannot serve."""
        path = self.settings["failure"]
        with open(path + ".new", "w") as file:
            json.dump({"kind": kind, "message": message, "hint": hint, "detail": detail[-20_000:]}, file)
        os.replace(path + ".new", path)
        self.slots[Slot.STAGE] = Stage.FAILED

    def run(self) -> int:
        with contextlib.suppress(OSError):  # the kernel kills a replica before an engine
            Path("/proc/self/oom_score_adj").write_text(str(self.settings["oom_score_adj"]))
        threading.Thread(target=self._beat, name="headway-beat", daemon=True).start()
        try:
            self._serve()
        except Refusal as refusal:
            self.refuse(refusal.kind, refusal.message, refusal.hint, refusal.detail)
            print(refusal.detail or refusal.message, file=sys.stderr, flush=True)
            return _EXIT_REFUSED
        return 0

    def _beat(self) -> None:
        while True:
            self.slots[Slot.BEAT_NS] = time.monotonic_ns()
            if self._wsgi is not None:
                self._wsgi.pulse()
            time.sleep(_BEAT_S)

    def _serve(self) -> None:
        settings = self.settings
        try:
            from granian.constants import HTTPModes, Interfaces, RuntimeModes
            from granian.http import HTTP1Settings
            from granian.log import LogLevels
            from granian.server.mp import MPServer
        except ImportError as error:
            raise Refusal(
                "granian",
                f"{sys.executable} cannot import granian 2.7 or newer: {error}",
                f'{shlex.quote(sys.executable)} -m pip install "granian>=2.7,<3"',
            ) from error
        self.slots[Slot.STAGE] = Stage.IMPORTING
        sys.path.insert(0, settings["folder"])
        target = settings["target"]
        app = load_app(target)
        interface = tell_apart(app, target, settings["interface"])
        is_wsgi = interface == "wsgi"
        threads = settings["threads"] if is_wsgi else 1
        self.slots[Slot.IS_WSGI], self.slots[Slot.THREADS] = int(is_wsgi), threads
        asked.threads = threads if is_wsgi else 0
        self.slots[Slot.STAGE] = Stage.STARTING
        with contextlib.suppress(FileNotFoundError):
            os.unlink(settings["socket"])
        routes, mounts = [settings["alive_route"]], [Path(settings["alive_folder"])]
        for route, folder in settings["static"].items():
            routes.append(route)
            mounts.append(Path(folder))
        app, interface = self._keep_responses(app, interface)
        server = MPServer(
            target,
            uds=Path(settings["socket"]),
            uds_permissions=0o600,
            interface=Interfaces.WSGI if is_wsgi else Interfaces.ASGI,
            blocking_threads=threads,
            runtime_mode=RuntimeModes.mt,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=_IDLE_CONNECTION_MS),
            backlog=settings["backlog"],
            backpressure=settings["connections_max"],
            log_access=False,
            log_level=LogLevels.warning,
            static_path_route=routes,
            static_path_mount=mounts,
            static_path_expires=settings["static_expires_s"],
        )
        serve = server._spawn_wsgi_worker if is_wsgi else server._spawn_asgi_lifespan_worker
        served = self._wrap_wsgi(app, threads) if is_wsgi else self._wrap_asgi(app, interface)
        server._init_shared_socket()  # type: ignore[no-untyped-call]
        if settings["socket_uid"] is not None:
            os.chown(settings["socket"], settings["socket_uid"], settings["socket_gid"])
        self.slots[Slot.LOOP_BEAT_NS] = time.monotonic_ns()
        if is_wsgi:
            self.slots[Slot.STAGE] = Stage.SERVING
        # The process object is never started: `run` is the documented way to run its target in this process.
        server._spawn_worker(0, serve, lambda: served).inner.run()

    def _keep_responses(self, app: Any, interface: str) -> tuple[Any, str]:
        """The app behind its kept responses, where the service declares some. That needs Headway where the app runs."""
        routes = self.settings.get("responses")
        if not routes:
            return app, interface
        kind = "wsgi" if interface == "wsgi" else "asgi"
        if interface == "asgi2":
            from .asgi import single_callable

            app = single_callable(app)
        try:
            layers = importlib.import_module(f"headway.caching.client.responses_{kind}")
            return layers.Layer(app, os.environ["HEADWAY_SERVICE"], routes), kind
        except ImportError as error:
            raise Refusal(
                "cache",
                f"{sys.executable} cannot import what keeps responses: {error}",
                f"{shlex.quote(sys.executable)} -m pip install headway, or take `cache` out of the service",
            ) from error

    def _wrap_asgi(self, app: Any, interface: str) -> Any:
        from .asgi import Layer, single_callable

        def failed(kind: str, message: str, detail: str) -> None:
            self.refuse(kind, message, "mend the app's start-up; the traceback is the app's own", detail)

        return Layer(
            single_callable(app) if interface == "asgi2" else app,
            self.slots,
            body_max_bytes=self.settings["body_max_bytes"],
            streams_max=self.settings["streams_max"],
            failed=failed,
            cancels=self.settings.get("cancels", ()),
        )

    def _wrap_wsgi(self, app: Any, threads: int) -> Any:
        from .wsgi import Layer

        layer = Layer(
            app,
            self.slots,
            body_max_bytes=self.settings["body_max_bytes"],
            streams_max=self.settings["streams_max"],
            threads=threads,
        )
        self._wsgi = layer
        # granian, told to end, waits for every answer and so for endless ones without end; it holds the handlers of
        # signals, but their numbers arrive here as well.
        numbers, send = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(send, False)
        signal.set_wakeup_fd(send, warn_on_full_buffer=False)
        threading.Thread(target=self._await_stop, args=(numbers,), name="headway-stop", daemon=True).start()
        return layer

    def _await_stop(self, numbers: int) -> None:
        while not {signal.SIGTERM, signal.SIGINT} & set(os.read(numbers, 64)):
            pass
        self.slots[Slot.STAGE] = Stage.STOPPING
        self._wsgi.stopping = True
        time.sleep(_WSGI_STOP_S)
        asked.ended()
        os._exit(0)


def main(settings_path: str) -> int:
    """Serve until told to stop; the exit status says whether the app could be served."""
    with open(settings_path) as file:
        settings = json.load(file)
    worker = Worker(settings)
    status = worker.run()
    asked.ended()
    if worker.slots[Slot.STAGE] != Stage.FAILED:
        worker.slots[Slot.STAGE] = Stage.STOPPING
    return status
