"""What Headway tells the app of its caches, in one variable of its environment.

`HEADWAY_CACHES` is a JSON object by cache. A cache that is not in it has not been declared, or the service does not
list it in `uses`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from headway.caching.place import CACHES_VARIABLE, Place, place_of_url
from headway.errors import NotRunning

NEAR_BYTES = 32 * 1024 * 1024
TIMEOUT_S = 0.1


@dataclass(frozen=True, slots=True)
class Told:
    """One cache: where its server is, and within which bounds."""

    name: str
    prefix: bytes  # of all keys on the server
    place: Place
    near_bytes: int = NEAR_BYTES  # what the tier in the process may hold
    timeout_s: float = TIMEOUT_S  # silence after which the server counts as away


def told(name: str, environ: Mapping[str, str] | None = None) -> Told:
    """What is told of cache `name`. NotRunning, with what to do, when nothing is."""
    environ = os.environ if environ is None else environ
    text = environ.get(CACHES_VARIABLE, "")
    if not text:
        raise NotRunning(
            f"cache {name}: this process was not started by Headway",
            hint=f"Start it by `headway up` or `headway run SERVICE -- COMMAND`, in a service with uses = ['{name}'].",
        )
    try:
        caches = json.loads(text)
        if name not in caches:
            raise NotRunning(
                f"cache {name} is not among those of this service ({', '.join(caches) or 'it has none'})",
                hint=f'Declare [caches.{name}], and list it in the service: uses = ["{name}"].',
            )
        return _told(name, caches[name])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotRunning(
            f"{CACHES_VARIABLE} cannot be read: {type(error).__name__}",
            hint="Headway sets it; an app of another version than Headway may not know its form.",
        ) from None


def _told(name: str, entry: Mapping[str, Any]) -> Told:
    place = place_of_url(entry["url"])
    if sentinel := entry.get("sentinel"):
        hosts = tuple((str(host), int(port)) for host, port in sentinel["hosts"])
        place = replace(place, master=str(sentinel["master"]), sentinels=hosts)
    return Told(
        name=name,
        prefix=str(entry["prefix"]).encode(),
        place=place,
        near_bytes=int(entry.get("near_bytes", NEAR_BYTES)),
        timeout_s=float(entry.get("timeout_s", TIMEOUT_S)),
    )
