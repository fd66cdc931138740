"""Advisory locks of a session: how they are waited for, and how they go.

A lock goes with its session, so nobody has to clean up after a kill. But a session ends a moment after its connection,
and what begins right then must neither be refused by such a lock nor leave one behind.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import psycopg

_PATIENCE_S = 2.0
_POLL_S = 0.05


def comes_free(try_to: Callable[[], bool], patience_s: float | None = None) -> bool:
    """Whether a lock can be had within the time: who held it, and has ended or was killed, takes a moment to end."""
    until_s = time.monotonic() + (_PATIENCE_S if patience_s is None else patience_s)
    while not try_to():
        if time.monotonic() > until_s:
            return False
        time.sleep(_POLL_S)
    return True


@contextlib.contextmanager
def given_back(session: psycopg.Connection[tuple[object, ...]]) -> Iterator[None]:
    """All locks of the session go with the block, and not only with its connection."""
    try:
        yield
    finally:
        if not session.closed and session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            with contextlib.suppress(psycopg.Error):
                session.execute("SELECT pg_advisory_unlock_all()")
