"""Talks to a running system's control API, and turns its errors back into ours."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any

from headway.errors import AppError, Conflict, EngineError, HeadwayError, MachineError, NotRunning
from headway.process.folders import Folders
from headway.process.linux import is_same
from headway.process.record import has_leftovers, read_record, supervisor_runs
from headway.process.unix_http import UnixConnection

_KINDS: dict[str, type[HeadwayError]] = {
    "AppError": AppError,
    "Conflict": Conflict,
    "EngineError": EngineError,
    "MachineError": MachineError,
}


class ControlClient:
    """One system's control API. NotRunning when nobody answers."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def ask(self, method: str, path: str, data: dict[str, Any] | None = None, *, timeout_s: float = 10.0) -> Any:
        """One request; the answer's JSON."""
        connection = UnixConnection(str(self._folders.control_socket), timeout_s)
        try:
            body = json.dumps(data).encode() if data is not None else None
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # The body is sent by itself: an answer that does not depend on it may be there before, and be the end.
                connection.request(method, path, body=body, headers={"Connection": "close"})
            answer = connection.getresponse()
            document = json.loads(answer.read())
        except (FileNotFoundError, ConnectionError, BlockingIOError, http.client.HTTPException) as error:
            # BlockingIOError: it stands still, and as many wait for it as the kernel lets wait.
            raise _nobody(self._folders) from error
        except TimeoutError as error:
            raise HeadwayError(
                f"the controller did not answer within {timeout_s:g} s", hint="headway logs controller"
            ) from error
        finally:
            connection.close()
        if "error" in document and answer.status >= 400:
            told = document["error"]
            kind = _KINDS.get(document.get("kind", ""), HeadwayError)
            if kind is AppError:
                raise AppError(told["message"], hint=told["hint"], detail=told["detail"])
            raise kind(told["message"], hint=told["hint"])
        return document

    def status(self) -> dict[str, Any]:
        """The status document."""
        document: dict[str, Any] = self.ask("GET", "/status")
        return document

    def is_running(self) -> bool:
        """Whether a controller answers."""
        try:
            self.status()
        except NotRunning:
            return False
        except HeadwayError:
            return True
        return True


def _nobody(folders: Folders) -> NotRunning:
    """Why nobody answers: nothing runs, or the controller is away, or nobody looks after what runs any more."""
    record = read_record(folders)
    if supervisor_runs(record):
        return NotRunning(
            "the controller does not answer", hint="it is started again by itself: headway logs controller"
        )
    if record is not None and has_leftovers(record):
        names = [entry["name"] for entry in record["processes"] if is_same(entry["pid"], entry["ticks"])]
        return NotRunning(
            f"supervisor and controller are gone, and {', '.join(sorted(names))} run on by themselves",
            hint="headway up --detach adopts them, headway down ends them",
        )
    return NotRunning(f"nothing runs here (state folder {folders.state})", hint="headway up starts it")
