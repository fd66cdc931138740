"""A stored value: its payload, and what a reader needs to judge whether it still holds.

The server forgets a value when its time is over. Whether it was overtaken by an invalidation is seen in the value
itself: it carries the generations, of the cache and of its tags, that were in force when its load began. A value
whose generations are not those of now is as good as none, so that one small write makes any number of values void.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

FORMAT = 1
GENERATION_BYTES = 8
TAGS_MAX = 32
# A value from the future was written before somebody set the clock back; how long it holds can no longer be said.
AHEAD_MAX_MS = 2000
HEADER = struct.Struct(">BBQII8sB")
_HEADER_BYTES = HEADER.size
_COMPRESSED = 1
_U32_MAX = 2**32 - 1


class Blob(NamedTuple):
    """What is stored under a key. Times in milliseconds; `stored_ms` since the epoch, by the clock of who stored it."""

    stored_ms: int
    ttl_ms: int
    load_ms: int  # how long the load took: the measure of how early to refresh
    generation: bytes  # the cache's, when the load began
    tags: tuple[bytes, ...]  # the generations of its tags, in the order in which they are given
    payload: bytes
    is_compressed: bool = False


def pack(blob: Blob, more_tags: int = 0) -> bytes:
    """The bytes to store. `more_tags`: so many generations are still to be put in before the payload."""
    return b"".join(
        (
            HEADER.pack(
                FORMAT,
                _COMPRESSED if blob.is_compressed else 0,
                blob.stored_ms,
                min(blob.ttl_ms, _U32_MAX),
                min(blob.load_ms, _U32_MAX),
                blob.generation,
                len(blob.tags) + more_tags,
            ),
            *blob.tags,
            blob.payload,
        )
    )


# What `unpack` tells: stored_ms, ttl_ms, load_ms, generation, generations of the tags, payload, is_compressed. A plain
# tuple, not a Blob: it is made for each value that comes from the server, and a named one takes as long as the rest.
Unpacked = tuple[int, int, int, bytes, list[bytes], bytes, int]


def unpack(data: bytes) -> Unpacked:
    """The value in `data`. Raises ValueError when it is not one, which counts as a miss."""
    try:
        form, flags, stored_ms, ttl_ms, load_ms, generation, count = HEADER.unpack_from(data)
    except struct.error:
        raise ValueError("shorter than a header") from None
    if form != FORMAT:
        raise ValueError("of another format")
    if not count:
        return stored_ms, ttl_ms, load_ms, generation, [], data[_HEADER_BYTES:], flags & _COMPRESSED
    end = _HEADER_BYTES + count * GENERATION_BYTES
    if count > TAGS_MAX or len(data) < end:
        raise ValueError("shorter than its tags")
    tags = [data[at : at + GENERATION_BYTES] for at in range(_HEADER_BYTES, end, GENERATION_BYTES)]
    return stored_ms, ttl_ms, load_ms, generation, tags, data[end:], flags & _COMPRESSED


def remaining_ms(stored_ms: int, ttl_ms: int, now_ms: int) -> int:
    """For how long a value is fresh; negative when it is not, minus infinity in effect when its clock is not ours."""
    age_ms = now_ms - stored_ms
    return ttl_ms - age_ms if age_ms >= -AHEAD_MAX_MS else -_U32_MAX
