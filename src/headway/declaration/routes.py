"""Routes as people write them, read into one spelling, so that two that mean the same are seen to be the same.

A route is a path prefix (`/api`), a host (`api.example.com`) or both (`api.example.com/v2`). A prefix matches whole
segments: `/api` is `/api` and `/api/x`, not `/apix`.
"""

from __future__ import annotations

import re

from headway.model.declared import System

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"


def parse_route(text: str) -> str:
    """The route's one spelling (host in small letters, no slash at the end); ValueError "what; what to write"."""
    route = text.strip()
    if not route:
        raise ValueError('a route must not be empty; write "/" for every path')
    if "://" in route:
        raise ValueError(f'"{text}" is a URL, not a route; write "{route.partition("://")[2]}"')
    if "?" in route or "#" in route:
        raise ValueError(f'"{text}" has more than a path; write "{re.split("[?#]", route)[0]}"')
    if "*" in route or "{" in route or "<" in route:
        raise ValueError(f'"{text}" is a pattern, and routes are prefixes; {_without_pattern(route)}')
    host, slash, path = route.partition("/")
    return _host(host, text) + _path(slash + path, text, bare=not host)


def _without_pattern(route: str) -> str:
    prefix = re.split(r"[*{<]", route)[0].rstrip("/")
    if not route.startswith("/") and not prefix:
        return "name every host that it stands for"
    return f'"{prefix or "/"}" already means everything below it'


def _host(host: str, text: str) -> str:
    if not host:
        return ""
    if not host.isascii():
        try:
            raise ValueError(f'"{text}" must be written as it travels; write "{host.encode("idna").decode()}"')
        except UnicodeError as error:
            if type(error) is ValueError:
                raise
            raise ValueError(f'"{text}" is not a host name; write it like "api.example.com"') from None
    if re.fullmatch(r".*:[0-9]+", host):
        raise ValueError(
            f'"{text}" names a port, which a route does not; write "{text.replace(":" + host.rpartition(":")[2], "")}"'
        )
    small = host.lower().rstrip(".")
    if len(small) > 253 or not re.fullmatch(rf"{_LABEL}(?:\.{_LABEL})*", small):
        raise ValueError(f'"{text}" is neither a path nor a host; write it like "/api" or "api.example.com"')
    return small


def _path(path: str, text: str, *, bare: bool) -> str:
    if not path.isascii():
        raise ValueError(f'"{text}" has letters that URLs carry percent-encoded; write them so, like "/caf%C3%A9"')
    if re.search(r"[\x00-\x20\x7f\"\\^`|<>\[\]]", path):
        raise ValueError(f'"{text}" has characters that no path has; write it like "/api"')
    if "//" in path or re.search(r"/\.\.?(/|$)", path):
        raise ValueError(f'"{text}" has an empty or dotted segment, which never arrives; write it like "/api"')
    return path.rstrip("/") or ("/" if bare else "")


def sole_app(system: System) -> str | None:
    """The service that gets `/` without saying so: the only app, where no service has routes."""
    apps = [name for name, service in system.services.items() if service.app is not None]
    return apps[0] if len(apps) == 1 and not any(service.routes for service in system.services.values()) else None


def covers(route: str, path: str) -> bool:
    """Whether a route (in its one spelling) leads requests for this path to its service, on some host."""
    prefix = "/" + route.partition("/")[2]
    return prefix == "/" or path == prefix or path.startswith(prefix + "/")
