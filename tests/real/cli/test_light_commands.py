"""What a command imports before it does anything: a person waits for it, and scripts run it many times."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("asyncio", "psycopg", "pydantic", "starlette", "uvicorn", "uvloop", "headway.sharding.client")


@pytest.mark.parametrize(
    "module",
    ["look", "explain", "hold", "logs", "cache", "db", "db_backup", "db_check", "db_import", "db_repair", "db_servers"],
)
def test_a_command_that_asks_a_running_system_loads_nothing_of_what_runs_one(module: str) -> None:
    code = (
        f"import sys, headway.cli.main, headway.cli.{module}\n"
        f"print([name for name in sys.modules if name.startswith({HEAVY!r})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_the_controller_of_a_system_without_databases_loads_nothing_of_postgresql() -> None:
    heavy = ("psycopg", "psutil", "headway.sharding.admin", "headway.sharding.move", "headway.control.db_api")
    code = f"import sys, headway.control.__main__\nprint([name for name in sys.modules if name.startswith({heavy!r})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
