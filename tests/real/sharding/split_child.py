"""A splitter in a process of its own, which kills itself at its NTH statement: python split_child.py SERVERS SPLIT NTH.

NTH: before, or (negative) after the server has carried that statement out.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading

from dying import die_when

from headway.sharding.admin import AdminServer
from headway.sharding.split.nouns import SplitBounds
from headway.sharding.split.splitter import Splitter


def main() -> None:
    servers = [AdminServer(**server) for server in json.loads(sys.argv[1])]
    split_id, nth = int(sys.argv[2]), int(sys.argv[3])
    count = itertools.count(1)
    die_when(lambda: next(count) == abs(nth), before=nth > 0)
    bounds = SplitBounds(chunk_rows=50, grace_s=4.0, readers_max_s=1.0)
    Splitter("orders", servers, progress=lambda _: None, stop=threading.Event(), bounds=bounds).resume(split_id)


main()
