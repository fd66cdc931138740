"""What an app is told of a cache, by where its server is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from headway.caching.place import Place, place_of_url
from headway.process.folders import Folders
from headway.runtimes.local.caches import Cache, Caches, WantedCache

FOLDERS = Folders(Path("/state"), Path("/run/headway"))
NOBODY = cast(Any, None)  # nothing here is started
SENTINELS = Place(
    host="mymaster", user="app", password="s/cret", master="mymaster", sentinels=(("10.0.0.1", 26379), ("b", 7))
)


def cache(place: Place | None, **more: Any) -> Cache:
    wanted = WantedCache("hot", "shop", place, **more)
    return Cache(wanted, FOLDERS, NOBODY, NOBODY, NOBODY, lambda name: None)


@pytest.mark.parametrize(
    ("place", "url", "sentinel"),
    [
        (None, "unix:///run/headway/c/hot/valkey.sock", None),
        (place_of_url("rediss://u:p@h:7/2"), "rediss://u:p@h:7/2", None),
        (
            SENTINELS,
            "redis://app:s%2Fcret@mymaster:6379",
            {"master": "mymaster", "hosts": [["10.0.0.1", 26379], ["b", 7]]},
        ),
    ],
)
def test_it_is_told_before_the_server_answers(place: Place | None, url: str, sentinel: object) -> None:
    assert cache(place, near_max_bytes=5, timeout_s=0.2).access() == {
        "url": url,
        "prefix": "hw:shop:hot:",
        "near_bytes": 5,
        "timeout_s": 0.2,
        "sentinel": sentinel,
    }


def test_a_reference_has_no_url_where_sentinels_are_asked() -> None:
    caches = Caches(FOLDERS, NOBODY, NOBODY, NOBODY, lambda name: None)
    caches.held = {"far": cache(SENTINELS), "hot": cache(None)}
    assert caches.fields() == {"hot": {"url": "unix:///run/headway/c/hot/valkey.sock"}}
    assert caches.settled == frozenset()


def test_another_bound_is_the_same_cache_and_another_server_is_not() -> None:
    one = cache(None)
    assert one.adapt(WantedCache("hot", "shop", None, memory_max_bytes=1))
    assert one.wanted.memory_max_bytes == 1
    assert not one.adapt(WantedCache("hot", "shop", place_of_url("redis://h")))
    assert not cache(place_of_url("redis://:a@h")).adapt(WantedCache("hot", "shop", place_of_url("redis://:b@h")))
