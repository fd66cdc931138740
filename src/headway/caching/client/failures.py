"""What failed a moment ago, and is not tried again at once. Bounded: what is too much is forgotten."""

from __future__ import annotations

from headway.caching.client.near import now

REST_S = 1.0  # after a refresh that failed: its readers go on with what they have, and each would try again
_KEYS_MAX = 1000


class Failures:
    """Those of one event loop, by key."""

    def __init__(self) -> None:
        self.kept: dict[bytes, tuple[BaseException, float]] = {}
        self._resting: dict[bytes, float] = {}

    def keep(self, key: bytes, error: BaseException, for_s: float) -> None:
        """Raise this error again for so long, instead of a load."""
        if len(self.kept) >= _KEYS_MAX:
            self.kept.clear()
        self.kept[key] = error, now() + for_s

    def raise_for(self, key: bytes) -> None:
        """Raise what is kept of the key, if anything is."""
        if key in self.kept:
            error, until = self.kept[key]
            if now() < until:
                raise error
            del self.kept[key]

    def forget(self, key: bytes) -> None:
        """It went well."""
        self.kept.pop(key, None)

    def rest(self, key: bytes) -> None:
        """Refresh it no more for a moment."""
        if len(self._resting) >= _KEYS_MAX:
            self._resting.clear()
        self._resting[key] = now() + REST_S

    def is_resting(self, key: bytes) -> bool:
        """Whether its refresh failed a moment ago."""
        if now() < self._resting.get(key, 0.0):
            return True
        self._resting.pop(key, None)
        return False
