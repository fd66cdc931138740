"""Listening sockets of the edge: addresses and paths, opened once, and given up again."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from headway.errors import MachineError
from headway.process.listeners import close_listener, open_listener


def test_a_path_is_listened_at_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "stock.sock"
    before = os.umask(0o022)
    try:
        listening = open_listener(str(path))
        assert os.umask(0o022) == 0o022  # what others create is as before
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close_listener(str(path), listening)
    assert not path.exists()


def test_what_an_earlier_system_left_at_a_path_goes(tmp_path: Path) -> None:
    path = str(tmp_path / "stock.sock")
    left = open_listener(path)
    left.close()
    listening = open_listener(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    close_listener(path, listening)


def test_a_path_that_cannot_be_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "stock.sock", tmp_path / ("x" * 120)):
        with pytest.raises(MachineError, match=path.name):
            open_listener(str(path))


def test_an_address_is_given_up_as_well() -> None:
    listening = open_listener("127.0.0.1:0")
    port = listening.getsockname()[1]
    close_listener(f"127.0.0.1:{port}", listening)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", port))
