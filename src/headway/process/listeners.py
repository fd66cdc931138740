"""Opens the public listening sockets. The supervisor holds them, so that no death of the edge refuses a connection."""

from __future__ import annotations

import errno
import os
import socket

from headway.errors import MachineError


def split_address(address: str) -> tuple[str, int]:
    """("127.0.0.1", 8000) of "127.0.0.1:8000"; brackets of IPv6 are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def open_listener(address: str) -> socket.socket:
    """Bind and listen. Never SO_REUSEPORT: a second server on a port must fail, not share it silently.

    MachineError with a hint when the address is taken, not ours or not allowed.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind((host, port))
        sock.listen(_backlog())
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _explain(address, port, error) from error
    return sock


def _backlog() -> int:
    # As long as the kernel allows: a burst waits there instead of being dropped and retried a second later.
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 4096


def _explain(address: str, port: int, error: OSError) -> MachineError:
    if error.errno == errno.EADDRINUSE:
        owner = port_owner(port)
        by = f" by {owner}" if owner else ""
        return MachineError(
            f"edge.bind: {address} is in use{by}",
            hint='stop that program, or choose another address: [edge] bind = ["127.0.0.1:8080"]',
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return MachineError(
            f"edge.bind: {address} is not an address of this machine",
            hint="use 127.0.0.1, 0.0.0.0 (every address) or one that `ip address` lists",
        )
    if error.errno == errno.EACCES:
        return MachineError(
            f"edge.bind: {address} needs the right to bind ports below 1024",
            hint="use a port from 1024 up, or allow it: sysctl net.ipv4.ip_unprivileged_port_start=80",
        )
    return MachineError(
        f"edge.bind: {address} cannot be opened: {os.strerror(error.errno or 0)}", hint="headway doctor"
    )


def port_owner(port: int) -> str:
    """Who listens on a TCP port, as "nginx (pid 1234)"; empty when that cannot be seen."""
    import psutil  # only on the error path: the supervisor stays light

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    return ""
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        return ""
    return ""
