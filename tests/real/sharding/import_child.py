"""A carrier in a process of its own, which kills itself at a chosen point: python import_child.py TOLD [STAGE NTH].

NTH: the statement of that stage at which it dies, before or (negative) after the server has carried it out.
"""

from __future__ import annotations

import json
import sys
import threading

from dying import die_at

from headway.model.sharding import Join
from headway.sharding.importing import importer
from headway.sharding.importing.nouns import ImportBounds, ImportServer, Source


def main() -> None:
    told = json.loads(sys.argv[1])
    if len(sys.argv) > 2:
        die_at(importer, sys.argv[2], int(sys.argv[3]), lambda carried: carried.work.record.stage)
    found = importer.Importer(
        "orders",
        told["catalog"],
        [ImportServer(**server) for server in told["servers"]],
        reference=tuple(told["reference"]),
        joins={table: Join(*join) for table, join in told["joins"].items()},
        progress=lambda _: None,
        stop=threading.Event(),
        bounds=ImportBounds(switch_max_s=400.0),  # else one that finds no moment on a busy machine follows for ever
    ).resume(told["import"], Source("main", told["source"], told["source"]))
    print(found.stage)


main()
