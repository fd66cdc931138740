"""Opens the edge's listening sockets. The supervisor holds them, so that no death of the edge refuses a connection."""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import MachineError

if TYPE_CHECKING:
    import psutil

_SUPERVISOR = "headway.process.supervisor"  # how a supervisor shows in a command line


def split_address(address: str) -> tuple[str, int]:
    """("127.0.0.1", 8000) of "127.0.0.1:8000"; brackets of IPv6 are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


_EDGE = "edge.bind"


def open_listener(address: str, where: str = _EDGE) -> socket.socket:
    """Bind and listen, at `host:port` or at the path of a unix socket, which then is ours alone (mode 0600). Never
    SO_REUSEPORT: a second server on a port must fail, not share it silently.

    MachineError with a hint when the address is taken, not ours or not allowed; `where` is what said the address.
    """
    sock = _bound_path(address) if is_path(address) else _bound(address, where)
    try:
        sock.listen(_backlog())
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _explain(address, where, error) from error
    return sock


def close_listener(address: str, sock: socket.socket) -> None:
    """Listen no more; the path of a unix socket goes too, so that who knows it is told at once that nobody is there."""
    sock.close()
    if is_path(address):
        Path(address).unlink(missing_ok=True)


def is_path(address: str) -> bool:
    """Whether an address is the path of a unix socket."""
    return address.startswith("/")


def check_address(address: str) -> None:
    """Whether `open_listener` would work now, without listening for a moment: the same MachineError when not."""
    _bound(address, _EDGE).close()


def _bound(address: str, where: str) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _explain(address, where, error) from error
    return sock


def _bound_path(path: str) -> socket.socket:
    """What an earlier system left at the path goes: its folder is ours, and who listened there has ended."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        Path(path).unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
    except OSError as error:
        sock.close()
        raise MachineError(f"{path} cannot be opened: {error.strerror or error}", hint="headway doctor") from error
    return sock


def _backlog() -> int:
    # As long as the kernel allows: a burst waits there instead of being dropped and retried a second later.
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 4096


def _explain(address: str, where: str, error: OSError) -> MachineError:
    if error.errno == errno.EADDRINUSE:
        owner = port_owner(address)
        by = f" by {owner.text}" if owner else ""
        stop = f"headway down --state {shlex.quote(owner.state)}" if owner and owner.state else "stop that program"
        return MachineError(
            f"{where}: {address} is in use{by}",
            hint=f"{stop}, or choose another address"
            + (': [edge] bind = ["127.0.0.1:8080"]' if where == _EDGE else ""),
        )
    if isinstance(error, socket.gaierror):
        return MachineError(
            f"{where}: the host of {address} has no address", hint="check the name, or write the address itself"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return MachineError(
            f"{where}: {address} is not an address of this machine",
            hint="use 127.0.0.1, 0.0.0.0 (every address) or one that `ip address` lists",
        )
    if error.errno == errno.EACCES:
        return MachineError(
            f"{where}: {address} needs the right to bind ports below 1024",
            hint="use a port from 1024 up, or allow it: sysctl net.ipv4.ip_unprivileged_port_start=80",
        )
    return MachineError(f"{where}: {address} cannot be opened: {os.strerror(error.errno or 0)}", hint="headway doctor")


@dataclass(frozen=True, slots=True)
class PortOwner:
    """Who listens on an address: the process as people know it; `state` is its folder where it is a Headway system."""

    pid: int
    name: str
    state: str = ""

    @property
    def text(self) -> str:
        """ "nginx (pid 1234)", "another Headway system (pid 1234, state folder /srv/shop/.headway)"."""
        if self.state:
            return f"another Headway system (pid {self.pid}, state folder {self.state})"
        return f"{self.name} (pid {self.pid})"


def port_owner(address: str) -> PortOwner | None:
    """The process in the way of an address; None when that cannot be seen (another user's, for a start)."""
    import psutil  # only on the error path: the supervisor stays light

    host, port = split_address(address)
    found: list[tuple[bool, PortOwner]] = []
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or connection.laddr.port != port:
                continue
            if connection.pid is not None:
                found.append((connection.laddr.ip == host, _owner(psutil.Process(connection.pid))))
    except (psutil.Error, OSError):
        pass
    return max(found, key=lambda entry: entry[0])[1] if found else None  # several may share a port: our address first


def _owner(process: psutil.Process) -> PortOwner:
    """The process, or the supervisor that started it: several hold its sockets, and it is the one to end."""
    for one in (process, *process.parents()):
        if state := _state_of(one.cmdline()):
            return PortOwner(one.pid, one.name(), state)
    return PortOwner(process.pid, process.name())


def _state_of(command: list[str]) -> str:
    """The state folder of a supervisor by its command line; empty for any other process."""
    if _SUPERVISOR not in command:
        return ""
    try:
        return str(json.loads(Path(command[-1]).read_text())["state"])
    except (OSError, ValueError, KeyError):
        return ""
