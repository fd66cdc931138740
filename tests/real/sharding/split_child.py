"""A splitter in a process of its own, which kills itself at its NTH statement: python split_child.py SERVERS SPLIT NTH.

NTH: before, or (negative) after the server has carried that statement out.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from typing import Any

import psycopg

from headway.sharding.shards import AdminServer
from headway.sharding.split.nouns import SplitBounds
from headway.sharding.split.splitter import Splitter

_execute = psycopg.Connection.execute
_count = itertools.count(1)


def main() -> None:
    servers = [AdminServer(**server) for server in json.loads(sys.argv[1])]
    split_id, nth = int(sys.argv[2]), int(sys.argv[3])

    def execute(self: Any, *arguments: Any, **options: Any) -> Any:
        last = next(_count) == abs(nth)
        if last and nth > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = _execute(self, *arguments, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    psycopg.Connection.execute = execute  # type: ignore[method-assign]
    bounds = SplitBounds(chunk_rows=50, grace_s=1.0, readers_max_s=1.0)
    Splitter("orders", servers, progress=lambda _: None, stop=threading.Event(), bounds=bounds).resume(split_id)


main()
