"""`python -m headway.control SETTINGS.json`: the controller's process, started and restarted by the supervisor."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
from pathlib import Path

import uvicorn

from headway.control.api import build
from headway.control.apply import Applying, on_change
from headway.control.controller import Controller
from headway.errors import HeadwayError
from headway.process.folders import Folders
from headway.process.wire import serve


def main() -> int:
    """Run until the system has stopped, or until told to make room for another controller."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    folders = Folders(Path(settings["state"]), Path(settings["run"]))
    # Told to end, it only makes room: what runs goes on, and the next controller adopts it. An orderly stop of the
    # whole system is another request, and comes from the supervisor or the API.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: os._exit(0))
    faulthandler.register(signal.SIGUSR1)  # one that stands still tells where, in its log
    try:
        controller = Controller(folders, detached=settings["detached"])
        if settings["reload"]:  # before anything reads the source: a change from now on is not overlooked
            watched = sorted({service.folder for service in controller.applied.system.services.values()})
            watch = on_change(controller, watched, controller.finished)
            threading.Thread(target=watch, name="reload", daemon=True).start()
        controller.start()
    except HeadwayError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr, flush=True)
        return 1
    threading.Thread(target=_serve, args=(controller, folders), name="api", daemon=True).start()
    controller.run()
    return 0


def _serve(controller: Controller, folders: Folders) -> None:
    """The control API, in a thread of its own: the loop must not wait for it, nor it for the loop."""
    sock = serve(str(folders.control_socket))
    config = uvicorn.Config(
        build(controller, Applying(controller)),
        log_config=None,
        access_log=False,
        lifespan="off",
        http="h11",
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    sys.exit(main())
