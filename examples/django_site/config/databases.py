"""Reads DATABASE_URL, the form in which platforms hand out databases, into what Django wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


def database(url: str, folder: Path) -> dict[str, Any]:
    """`postgresql://user:password@host:port/name?option=value` or `sqlite:///file`; the folder holds a default file."""
    if not url:
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "site.sqlite3", "OPTIONS": {"timeout": 20}}
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": unquote(parts.path[1:]), "OPTIONS": {"timeout": 20}}
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError(f"DATABASE_URL starts with {parts.scheme}://, this site knows postgresql:// and sqlite://")
    options = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or options.pop("user", "")),
        "PASSWORD": unquote(parts.password or options.pop("password", "")),
        # A unix socket's folder cannot stand where the host stands: it comes as ?host=/folder.
        "HOST": options.pop("host", "") or parts.hostname or "",
        "PORT": options.pop("port", "") or parts.port or "",
        "OPTIONS": options,
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }
