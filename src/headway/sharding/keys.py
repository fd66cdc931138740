"""Key → shard, by PostgreSQL's own hash-partition convention, computed here as the server computes it. Pure.

So the server can check the map in SQL (`satisfies_hash_partition`, or the expression of `shard_sql`), and other tools
that know the convention agree (PgDog, pgcat). The hash is Bob Jenkins' lookup3 (2006) in the seeded 64-bit form of
PostgreSQL's `src/common/hashfn.c`; the combination is `hash_combine64` of `src/include/common/hashfn.h`.

With M dividing N, shard mod M of N shards is the shard of M: doubling splits shard s into s and s + N.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable

from headway.model.sharding import ALGORITHM, KeyKind

_SEED = 0x7A5B22367996DCFD
_COMBINE = 0x49A0F4DD15E5A8E3
_M32 = 0xFFFFFFFF
_M64 = 0xFFFFFFFFFFFFFFFF
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1

# Key -> shard of 1024; what every client computes before it trusts itself, and the server is asked for at connect.
VECTORS: tuple[tuple[KeyKind, int | str | uuid.UUID, int], ...] = (
    ("int", 1, 952),
    ("int", 42, 610),
    ("int", -7, 218),
    ("int", 1 << 40, 654),
    ("text", "alice", 981),
    ("text", "", 166),
    ("text", "abcdefghijkl", 105),
    ("uuid", uuid.UUID(int=1), 557),
)
VECTOR_SHARDS = 1024


class WrongKey(TypeError):
    """The key is of another type than the map says, or no key at all."""


def _final(a: int, b: int, c: int) -> int:
    """lookup3's last mix; its two halves as 64 bits."""
    m = _M32
    c = ((c ^ b) - ((b << 14 & m) | b >> 18)) & m
    a = ((a ^ c) - ((c << 11 & m) | c >> 21)) & m
    b = ((b ^ a) - ((a << 25 & m) | a >> 7)) & m
    c = ((c ^ b) - ((b << 16 & m) | b >> 16)) & m
    a = ((a ^ c) - ((c << 4 & m) | c >> 28)) & m
    b = ((b ^ a) - ((a << 14 & m) | a >> 18)) & m
    c = ((c ^ b) - ((b << 24 & m) | b >> 8)) & m
    return b << 32 | c


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    m = _M32
    a = ((a - c) ^ ((c << 4 & m) | c >> 28)) & m
    c = (c + b) & m
    b = ((b - a) ^ ((a << 6 & m) | a >> 26)) & m
    a = (a + c) & m
    c = ((c - b) ^ ((b << 8 & m) | b >> 24)) & m
    b = (b + a) & m
    a = ((a - c) ^ ((c << 16 & m) | c >> 16)) & m
    c = (c + b) & m
    b = ((b - a) ^ ((a << 19 & m) | a >> 13)) & m
    a = (a + c) & m
    c = ((c - b) ^ ((b << 4 & m) | b >> 28)) & m
    b = (b + a) & m
    return a, b, c


def _seeded(length: int) -> tuple[int, int, int]:
    a = b = c = (0x9E3779B9 + length + 3923095) & _M32
    a = (a + (_SEED >> 32)) & _M32
    b = (b + (_SEED & _M32)) & _M32
    return _mix(a, b, c)


_A4, _B4, _C4 = _seeded(4)  # a 32-bit value is hashed as four bytes


def _hash_bytes(data: bytes) -> int:
    """`hash_bytes_extended(data, seed)`: 64 bits."""
    a, b, c = _seeded(len(data))
    whole = len(data) // 12 * 12
    for x, y, z in struct.iter_unpack("<III", data[:whole]):
        a, b, c = _mix((a + x) & _M32, (b + y) & _M32, (c + z) & _M32)
    # The lowest byte of c is kept for the length.
    x, y, z = struct.unpack("<III", data[whole:].ljust(11, b"\0")[:8] + b"\0" + data[whole + 8 :].ljust(3, b"\0"))
    return _final((a + x) & _M32, (b + y) & _M32, (c + z) & _M32)


def shard_of_int(key: object, shards: int) -> int:
    """The shard of a whole number of 64 bits."""
    if type(key) is not int:
        if not isinstance(key, int) or isinstance(key, bool):
            raise WrongKey(_wrong(key, "int"))
        key = int(key)  # an IntEnum is a number
    if not _INT_MIN <= key <= _INT_MAX:
        raise WrongKey(f"key {key} does not fit in 64 bits")
    # The halves are folded, so that equal numbers of any width hash alike (`hashint8extended`).
    low, high = key & _M32, key >> 32 & _M32
    hashed = _final((_A4 + (low ^ (high if key >= 0 else high ^ _M32))) & _M32, _B4, _C4)
    return ((hashed + _COMBINE) & _M64) % shards


def shard_of_text(key: object, shards: int) -> int:
    """The shard of a text, hashed as its UTF-8 bytes."""
    if not isinstance(key, str):
        raise WrongKey(_wrong(key, "text"))
    try:
        data = key.encode()
    except UnicodeEncodeError:
        raise WrongKey("the key holds a lone surrogate, which no database can store") from None
    if b"\0" in data:
        raise WrongKey("the key holds a NUL character, which PostgreSQL cannot store")
    return ((_hash_bytes(data) + _COMBINE) & _M64) % shards


def shard_of_uuid(key: object, shards: int) -> int:
    """The shard of a UUID, given as one or as its text."""
    if isinstance(key, str):
        try:
            key = uuid.UUID(key)
        except ValueError:
            raise WrongKey("the key is a text that is not a UUID") from None
    if not isinstance(key, uuid.UUID):
        raise WrongKey(_wrong(key, "uuid"))
    return ((_hash_bytes(key.bytes) + _COMBINE) & _M64) % shards


def _wrong(key: object, kind: str) -> str:
    if key is None:
        return f"the key is None; this database is sharded by {kind}, and every row has a key"
    return f"the key is of type {type(key).__name__}; this database is sharded by {kind}"


SHARD_OF: dict[KeyKind, Callable[[object, int], int]] = {
    "int": shard_of_int,
    "text": shard_of_text,
    "uuid": shard_of_uuid,
}


def shard_of(key: object, shards: int, kind: KeyKind) -> int:
    """The shard of a key; WrongKey (a TypeError) when it is none of this kind."""
    return SHARD_OF[kind](key, shards)


def self_test(algorithm: str = ALGORITHM) -> None:
    """RuntimeError when this interpreter or this algorithm does not agree with the vectors."""
    if algorithm != ALGORITHM:
        raise RuntimeError(f"the shard map uses the algorithm {algorithm!r}, which this version does not know")
    for kind, key, shard in VECTORS:
        found = shard_of(key, VECTOR_SHARDS, kind)
        if found != shard:
            raise RuntimeError(f"key {key!r} hashes to {found} here and to {shard} in PostgreSQL")


_FUNCTION: dict[KeyKind, str] = {
    "int": "hashint8extended",
    "text": "hashtextextended",
    "uuid": "uuid_hash_extended",
}
# The hash functions that a column of another width or spelling is cast for.
SQL_TYPE: dict[KeyKind, str] = {"int": "int8", "text": "text", "uuid": "uuid"}


def shard_sql(expression: str, shards: int, kind: KeyKind) -> str:
    """The SQL that computes the shard of `expression` (quoted by the caller); immutable, so a CHECK may hold it.

    64-bit unsigned arithmetic in signed numbers: added in two halves, so that nothing overflows.
    """
    hashed = f"pg_catalog.{_FUNCTION[kind]}(({expression})::{SQL_TYPE[kind]}, {_SEED})"
    low = f"(({hashed} & {_M32}) + {_COMBINE & _M32})"
    high = f"((({hashed} >> 32) & {_M32}) + {_COMBINE >> 32} + ({low} >> 32)) & {_M32}"
    if shards & (shards - 1) == 0:
        return f"({low} & {shards - 1})::int"
    return f"(((({high}) % {shards}) * {(1 << 32) % shards} + ({low} & {_M32}) % {shards}) % {shards})::int"
