"""Ends what psycopg has prepared on a connection that goes on for other tables."""

from __future__ import annotations

import itertools

_numbers = itertools.count()


def forget_prepared() -> str:
    """The statement, each time with another text.

    psycopg learns from a result that all its prepared statements have ended, but looks at those results only whose text
    it does not know yet; of one that it knows, it would go on using what the server has forgotten.
    """
    return f"DEALLOCATE ALL -- {next(_numbers)}"
