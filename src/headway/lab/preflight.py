"""Looks before a load starts: is somebody there, and may this process open enough connections?

A load against a closed port would report thousands of failures for one typing error; without descriptors it would
measure this machine's settings instead of the system.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
from dataclasses import dataclass

from headway.errors import HeadwayError, MachineError, NotRunning
from headway.lab.plan import CONNECTIONS_MAX, LoadPlan
from headway.lab.target import Target

_PROBE_TIMEOUT_S = 5.0
# Event loop, resolver, log files that are opened while the load runs.
_DESCRIPTORS_RESERVE = 64


@dataclass(frozen=True, slots=True)
class Reached:
    """A target that answered a probe: the address that did, and the TLS settings it accepted."""

    target: Target
    address: str  # numeric; "" for a unix socket
    tls: ssl.SSLContext | None


def tls_context(plan: LoadPlan) -> ssl.SSLContext:
    """TLS as a careful client speaks it, unless the plan says otherwise."""
    try:
        context = ssl.create_default_context(cafile=plan.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise HeadwayError(
            f"{plan.ca_file}: no certificates to trust in it ({error})", hint="give a PEM file"
        ) from error
    if plan.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def reach(plan: LoadPlan, target: Target) -> Reached:
    """Connect once, without a request. NotRunning, MachineError or HeadwayError say why that failed."""
    timeout_s = min(_PROBE_TIMEOUT_S, max(plan.deadline_s, 1.0))
    context = tls_context(plan) if target.tls else None
    failure: Exception = TimeoutError()
    try:
        async with asyncio.timeout(timeout_s):
            for address in [""] if target.socket_path else await _resolve(target):
                reached = Reached(target, address, context)
                try:
                    await _probe(reached)
                except OSError as error:
                    failure = error
                else:
                    return reached
    except TimeoutError as error:
        failure = error
    raise _explained(failure, plan.url, target, timeout_s) from failure


async def _resolve(target: Target) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise HeadwayError(
            f"the name {target.host} does not resolve to an address", hint="check the spelling, or use an IP address"
        ) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _probe(reached: Reached) -> None:
    loop, target = asyncio.get_running_loop(), reached.target
    if target.socket_path:
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, target.socket_path)
    else:
        transport, _ = await loop.create_connection(
            asyncio.Protocol,
            reached.address,
            target.port,
            ssl=reached.tls,
            server_hostname=target.host if reached.tls else None,
        )
    transport.abort()


def _explained(failure: Exception, url: str, target: Target, timeout_s: float) -> HeadwayError:
    place = target.place
    match failure:
        case ConnectionRefusedError() | FileNotFoundError():
            return NotRunning(f"nothing listens on {place}", hint="start it first (headway up), or check the address")
        case ssl.SSLCertVerificationError():
            return HeadwayError(
                f"{place} shows a certificate that cannot be trusted: {failure.verify_message.rstrip('.')}",
                hint="trust its authority (--ca FILE); headway load can also go on unchecked (--insecure)",
            )
        case ssl.SSLError() | ConnectionAbortedError() | ConnectionResetError() if target.tls:
            return HeadwayError(f"{place} does not speak TLS as {url} expects", hint="does http:// work?")
        case TimeoutError():
            return MachineError(f"{place} does not accept a connection within {timeout_s:g} s", hint="is it reachable?")
        case OSError():
            return MachineError(f"{place} cannot be reached: {failure.strerror or failure}", hint="check the address")
    raise failure


def allow_connections(plan: LoadPlan) -> int:
    """How many connections the load may hold, raising the soft descriptor limit as far as needed and allowed.

    MachineError when that is fewer than were asked for, or than the plan needs at the very least.
    """
    wanted = plan.connections_max or max(CONNECTIONS_MAX, plan.connections_needed)
    reserve = len(os.listdir("/dev/fd")) + _DESCRIPTORS_RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + reserve:
        soft = wanted + reserve if hard == resource.RLIM_INFINITY else min(wanted + reserve, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - reserve)
    needed = plan.connections_max or plan.connections_needed
    if allowed < needed:
        raise MachineError(
            f"this load needs {needed:,} connections, but the descriptor limit of {soft:,} leaves {allowed:,}",
            hint=f"raise the limit (ulimit -n {needed + reserve} as root, or LimitNOFILE=), or lower the rate",
        )
    return allowed
