"""Gets a supervisor out of the way that lives and does not answer, so that a command is not told to wait for ever."""

from __future__ import annotations

import signal
import time
from typing import Any

from headway.process.folders import Folders
from headway.process.linux import is_same, send_signal
from headway.process.supervisor_client import SupervisorClient, SupervisorGone, SupervisorSilent

_PATIENCE_S = 15.0  # a machine that is very busy is no supervisor that hangs
_GONE_S = 10.0
_POLL_S = 0.05


def end_if_it_hangs(folders: Folders, record: dict[str, Any]) -> bool:
    """Have the supervisor of a record go on; where it still does not answer, kill it. Whether it was killed.

    In the foreground all it started ends with it, and is waited for; detached, that runs on.
    """
    supervisor = record["supervisor"]
    send_signal(supervisor["pid"], supervisor["ticks"], signal.SIGCONT)
    client = SupervisorClient(str(folders.supervisor_socket), patience_s=_PATIENCE_S)
    try:
        client.connect()
        client.processes()
        return False
    except SupervisorSilent:
        pass
    except SupervisorGone:  # it is about to end
        return False
    finally:
        client.close()
    send_signal(supervisor["pid"], supervisor["ticks"], signal.SIGKILL)
    ending = [supervisor] if supervisor["detached"] else [supervisor, *record["processes"]]
    until_s = time.monotonic() + _GONE_S
    while any(is_same(entry["pid"], entry["ticks"]) for entry in ending) and time.monotonic() < until_s:
        time.sleep(_POLL_S)
    return True
