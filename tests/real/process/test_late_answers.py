"""A supervisor that answers too late has done what it was asked: what it started is found, and nobody is blamed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import die_with_parent, wait_for

from headway.model.launch import Launch
from headway.model.replica import Phase, Replica
from headway.process.folders import Folders
from headway.process.supervisor_client import SupervisorClient
from headway.runtimes.local.processes import Processes

SUPERVISOR = """
import sys
from pathlib import Path
from headway.process.spec import ProcessSpec
from headway.process.supervisor import Supervisor

sys.exit(Supervisor(Path(sys.argv[1]), ProcessSpec("controller", ("sleep", "600")), False).run())
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path)], preexec_fn=die_with_parent)
    try:
        wait_for(lambda: (tmp_path / "processes.json").exists(), 60, "it has begun")
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)


def test_a_replica_that_was_started_without_an_answer_is_found(
    supervisor: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    folders = Folders(tmp_path, tmp_path)
    folders.logs.mkdir()
    client = SupervisorClient(str(folders.supervisor_socket), patience_s=1.0)
    client.connect()
    launch = Launch(service="job", kind="command", folder=str(tmp_path), command=("sleep", "600"))
    processes = Processes(folders, client, None, launches={"job": launch})
    replica = Replica("job.1", "job", 1, "k", Phase.STARTING, 0.0)
    supervisor.send_signal(signal.SIGSTOP)
    assert processes.start(replica) == "the supervisor does not answer"
    assert processes.observe({"job.1": replica}) == {}, "nobody is blamed"
    supervisor.send_signal(signal.SIGCONT)
    try:

        def found() -> bool:
            processes.refresh()
            return processes.can_start and "job.1" in processes.table

        wait_for(found, 60, "it is known")
        seen = processes.observe({"job.1": replica})["job.1"]
        assert (seen.alive, seen.failure) == (True, None)
    finally:
        processes.end("job.1", "kill")
        processes.close()
