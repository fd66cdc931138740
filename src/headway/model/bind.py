"""An address the edge listens on, read from what a person wrote: `127.0.0.1:8000`, `[::]:443`, `http://0.0.0.0:80`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bind:
    """Host (an IPv6 address without brackets), port, and the scheme where one was written ("", "http", "https")."""

    host: str
    port: int
    scheme: str = ""

    @property
    def text(self) -> str:
        """`host:port`, with brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def redirects(self, *, tls: bool) -> bool:
        """Whether this address only redirects to HTTPS: with `tls`, what is written `http://` and port 80."""
        return tls and (self.scheme == "http" or (self.port == 80 and self.scheme != "https"))


def parse_bind(text: str) -> Bind:
    """Read an address; ValueError "what is wrong; what to write instead" otherwise."""
    match = re.fullmatch(r"(?:(https?)://)?(\[[^\]]*\]|[^:\[\]/]*):([0-9]{1,9})/?", text.strip())
    if match is None:
        raise ValueError(_why_no_address(text.strip()))
    scheme, host, port = match[1] or "", match[2].strip("[]"), int(match[3])
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} does not exist; ports go from 1 to 65535")
    if not host or host == "*":
        raise ValueError(f'"{text}" names no host; write "127.0.0.1:{port}" for this machine alone or "0.0.0.0:{port}"')
    if match[2].startswith("["):
        host = _ip(host, ipaddress.IPv6Address, f'"{host}" is not an IPv6 address; write it like "[::1]:{port}"')
    elif re.fullmatch(r"[0-9.]+", host):
        host = _ip(host, ipaddress.IPv4Address, f'"{host}" is not an IPv4 address; write it like "127.0.0.1:{port}"')
    elif not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", host):
        raise ValueError(f'"{host}" is not a host name; write it like "127.0.0.1:{port}"')
    return Bind(host.lower(), port, scheme)


def _ip(host: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address], otherwise: str) -> str:
    try:
        return str(kind(host))
    except ValueError:
        raise ValueError(otherwise) from None


def _why_no_address(text: str) -> str:
    """The sentence for the mistakes that people make most."""
    if re.fullmatch(r"[0-9]{1,9}", text):
        return f'"{text}" names no host; write "127.0.0.1:{text}" for this machine alone or "0.0.0.0:{text}"'
    if "unix" in text or text.startswith("/"):
        return (
            f'"{text}" is not host:port, and the edge does not listen on unix sockets; write it like "127.0.0.1:8000"'
        )
    head, _, port = text.rpartition(":")
    if port.isdigit() and _is_ipv6(head):
        return f'"{text}" needs brackets around IPv6; write "[{head}]:{port}"'
    bare = text.strip("[]")
    if ":" in bare and _is_ipv6(bare):
        return f'"{text}" has no port; write it like "[{bare}]:8000"'
    if text and ":" not in text and "/" not in text and " " not in text:
        return f'"{text}" has no port; write it like "{text}:8000"'
    return f'"{text}" is not host:port; write it like "127.0.0.1:8000" or "[::1]:8000"'


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
