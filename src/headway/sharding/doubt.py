"""Ends what transactions over several shards have left prepared: by the decision in the catalog, or as aborted.

Run by the controller every few seconds. A part is left alone while its client may still decide; then `abort` is written
unless a decision stands there, so that all parts end alike and a client that comes late finds itself refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

PATIENCE_S = 15.0  # longer than a client may take for its decision
KEPT_S = 3600.0  # decisions are needed as long as a part may be in doubt; a server may be away for a while

_IN_DOUBT: LiteralString = """
SELECT gid FROM pg_prepared_xacts
 WHERE database = current_database() AND starts_with(gid, %s) AND prepared < now() - make_interval(secs => %s)
"""
_FORGET: LiteralString = "DELETE FROM headway.decisions WHERE decided_at < now() - make_interval(secs => %s)"
Connection = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Ended:
    """A part that was in doubt, and how it was ended."""

    gid: str
    server: str
    decision: str  # "commit" | "abort"


def end_doubts(
    database: str,
    catalog: Connection,
    servers: Iterable[tuple[str, Connection]],
    patience_s: float = PATIENCE_S,
    *,
    forget: bool = True,
) -> list[Ended]:
    """End every part in doubt that is older than `patience_s`. Connections are in autocommit, as the app's role.

    Old decisions are forgotten (`forget`) only where `servers` are all there are: another one may hold a part that
    needs them.
    """
    ended = []
    for server, connection in servers:
        for (gid,) in connection.execute(_IN_DOUBT, (f"headway:{database}:", patience_s)).fetchall():
            decision = _decision(catalog, str(gid).split(":")[2])
            words: LiteralString = "COMMIT PREPARED {}" if decision == "commit" else "ROLLBACK PREPARED {}"
            try:
                connection.execute(sql.SQL(words).format(sql.Literal(str(gid))))
            except psycopg.errors.UndefinedObject:
                continue  # its client has ended it meanwhile
            ended.append(Ended(str(gid), server, decision))
    if forget:
        catalog.execute(_FORGET, (KEPT_S,))
    return ended


def _decision(catalog: Connection, transaction: str) -> str:
    catalog.execute(
        "INSERT INTO headway.decisions (transaction, decision) VALUES (%s, 'abort') ON CONFLICT DO NOTHING",
        (transaction,),
    )
    row = catalog.execute("SELECT decision FROM headway.decisions WHERE transaction = %s", (transaction,)).fetchone()
    return "commit" if row == ("commit",) else "abort"
