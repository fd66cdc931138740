"""New generations, of the cache and of tags."""

from __future__ import annotations

import secrets

from headway.caching.blob import GENERATION_BYTES

_SMALL_BYTES = 5


def made() -> bytes:
    """One where there is none. It is below all that the counter gives, for nothing was made void by it."""
    return secrets.token_bytes(_SMALL_BYTES).rjust(GENERATION_BYTES, b"\0")
