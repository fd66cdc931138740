"""Says in the app's log why a cache's server is not used: once, and not each time that somebody looks for it.

The app itself notices nothing, for functions are loaded without a server. So a wrong password would show in nothing but
the load on what is behind.
"""

from __future__ import annotations

import logging
import threading

from headway.caching.client.near import now
from headway.caching.refusals import Refusal

AGAIN_S = 60.0  # the same is told no sooner, however often the server comes and goes
_KNOWN_MAX = 20
_log = logging.getLogger("headway.caching")


class Outage:
    """Of one cache in one process; from any thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()
        self._lasts = False

    def begins(self, why: Refusal) -> None:
        """The server is not used, for this reason."""
        with self._lock:
            at = now()
            self._lasts = True
            if at - self._told.get(why.text, -AGAIN_S) < AGAIN_S:
                self._told[why.text] = at
                return
            if len(self._told) >= _KNOWN_MAX:
                self._told.clear()
            self._told[why.text] = at
        _log.warning("cache %s: %s; functions are loaded without it", self._name, why.whole)

    def ends(self) -> None:
        """It is used again, or from the start."""
        with self._lock:
            lasted, self._lasts = self._lasts, False
        if lasted:
            _log.info("cache %s: the server is there again", self._name)
