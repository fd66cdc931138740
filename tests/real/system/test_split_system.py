"""Shards are doubled in a whole system while its app writes, also when the controller dies in the middle."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from harness import Running, wait_for
from sharded_app import MIGRATIONS, Writers, declaration, write_app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_app(tmp_path)


def test_a_split_goes_on_by_itself_when_the_controller_dies(folder):
    with (
        Running(folder, declaration(MIGRATIONS, replicas=2, shards=4), detached=True) as system,
        Writers(system, count=3) as writers,
    ):
        wait_for(lambda: writers.count > 50, 30, "orders are written")
        asking = threading.Thread(target=system.run, args=("db", "split", "orders"))
        asking.start()
        wait_for(lambda: any(entry["what"] == "split" for entry in system.journal()), 30, "the split begins")
        os.kill(system.pid("controller"), signal.SIGKILL)

        def has_ended() -> bool:
            done = system.run("db", "status", "orders", "--json")
            if done.returncode:
                return False
            found = json.loads(done.stdout.splitlines()[-1])["databases"]["orders"]
            return bool(found["shards"] == 8) and not found.get("split")

        wait_for(has_ended, 90, "the split has ended", every_s=0.2)
        asking.join(60)
        before = writers.count
        wait_for(lambda: writers.count > before + 20, 30, "orders are written after it")
        # The catalog decides: what was declared is accepted, and the line to write is said once.
        line = "warning: databases.orders.shards: 4 are declared, and since a split there are 8: "
        line += "write shards = 8 in [databases.orders]"
        assert system.run("up").stderr.count(line) == 1
        assert line in system.ok("check")
        (folder / "headway.toml").write_text((folder / "headway.toml").read_text().replace("shards = 4", "shards = 8"))
        assert "warning" not in system.run("up").stderr
        assert "warning" not in system.ok("check")
        writers.__exit__()
        assert writers.refused == []
        assert writers.missing() == {}
        assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1])["complete"]
