"""Values that the app keeps under names of its own, with tags where it gives some.

Who asks for a name does not know its tags. So a value that has some carries their names before it, and whether it still
holds is asked in a second question, once the first one has brought them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any

import hiredis
import msgspec

from headway.caching.blob import Blob, pack, unpack
from headway.caching.client.generations import made
from headway.caching.client.link import Away, Link
from headway.caching.client.looks import VALUE_MAX_BYTES
from headway.caching.client.near import now
from headway.caching.client.parts import Parts
from headway.caching.client.rule import Rule
from headway.caching.client.voids import void_keys
from headway.caching.client.want import Found, Want
from headway.caching.codec import MessagePack, carried, compressed, plain
from headway.caching.keys import encode_key
from headway.errors import CacheError

_FOLDER = "="
TTL_MAX_S = 40 * 86400.0
# Before a value with tags: a byte that MessagePack never begins with, the length of their names, whether the value is
# compressed (the names never are, for they are read first).
_MARK = 0xC1
_HEAD = struct.Struct(">BIB")


class _Tagged:
    """Plain data, after the names of its tags where it has some."""

    def __init__(self) -> None:
        self._plain = MessagePack()

    def encode(self, value: Any) -> bytes:
        return self._plain.encode(value)

    def decode(self, data: bytes) -> Any:
        if data[:1] != bytes((_MARK,)):
            return self._plain.decode(data)
        _mark, length, is_compressed = _HEAD.unpack_from(data)
        value = data[_HEAD.size + length :]
        return self._plain.decode(plain(value, VALUE_MAX_BYTES) if is_compressed else value)


def tagged(raw: bytes, tags: tuple[bytes, ...]) -> bytes:
    """A value's bytes with the names of its tags before them."""
    names = msgspec.msgpack.encode(tags)
    payload, is_compressed = compressed(raw)
    return _HEAD.pack(_MARK, len(names), is_compressed) + names + payload


def tags_in(data: bytes) -> tuple[bytes, ...]:
    """The tags of a stored value, none for what is not one."""
    try:
        *_times, generations, payload, _is_compressed = unpack(data)
        if not generations:
            return ()
        mark, length, _is_compressed = _HEAD.unpack_from(payload)
        found = msgspec.msgpack.decode(payload[_HEAD.size : _HEAD.size + length], type=tuple[bytes, ...])
        return found if mark == _MARK and len(found) == len(generations) else ()
    except (ValueError, struct.error):
        return ()


class Named:
    """Those of one cache."""

    def __init__(self) -> None:
        self.rule = Rule(_FOLDER, _Tagged(), ttl_s=TTL_MAX_S)

    def want(self, name: str, tags: tuple[bytes, ...] = ()) -> Want:
        """What is asked for. TypeError when the name is not a text."""
        if not isinstance(name, str):
            raise TypeError(f"key: {name!r} is not a text")
        return Want(self.rule, _FOLDER.encode() + encode_key((name,), {}, ("key",)), tags)

    async def find(self, parts: Parts, names: Iterable[str]) -> dict[str, Any]:
        """The values of those names that have one, those that are not in the process by one question to the server,
        and a second one where they have tags."""
        near, found = parts.near, dict[str, Any]()
        asked: dict[str, Want] = {}
        for name in names:
            want = self.want(name)
            entry = near.look(want.key)
            if entry is not None and near.believes(entry) and now() < entry.ends:
                self.rule.counts.hits_near += 1
                found[name] = entry.value
            else:
                asked[name] = want
        if not asked:
            return found
        looks = parts.loads().looks
        try:
            answers = await self._ask(parts, asked)
        except Away:
            self.rule.counts.away += 1
            answers = {name: looks.without_server(want) for name, want in asked.items()}
        return found | {name: answer.value for name, answer in answers.items() if isinstance(answer, Found)}

    async def _ask(self, parts: Parts, wants: dict[str, Want]) -> dict[str, object]:
        loads, prefix = parts.loads(), parts.told.prefix
        link = await loads.up()
        since = parts.near.changes
        generation, *stored = await _read(link, prefix + b"g", *(prefix + b"v:" + want.key for want in wants.values()))
        there = {name: data for name, data in zip(wants, stored, strict=True) if data is not None}
        tags = {name: tags_in(data) for name, data in there.items()}
        known = list({tag for its in tags.values() for tag in its})
        asked = await _read(link, *(prefix + b"t:" + tag for tag in known)) if known else []
        in_force = dict(zip(known, asked, strict=True))
        return {
            name: loads.looks.open(
                self.want(name, tags[name]), data, generation, [in_force[tag] for tag in tags[name]], since
            )
            for name, data in there.items()
        }

    async def store(self, parts: Parts, values: Mapping[str, Any], ttl_s: float, tags: tuple[bytes, ...]) -> None:
        """Keep them. What others make void by a tag from now on is void, however late it arrives. Without a server
        what was there before is void."""
        raws = {self.want(name).key: carried(self.rule.codec, value)[0] for name, value in values.items()}
        for raw in raws.values():
            if len(raw) > VALUE_MAX_BYTES:
                raise CacheError(f"a value of {len(raw)} bytes is too large", hint=f"at most {VALUE_MAX_BYTES} bytes")
        prefix, ttl_ms = parts.told.prefix, max(1, int(ttl_s * 1000))
        try:
            link = await parts.loads().up()
            generation, *generations = await _generations(link, prefix, tags)
            answers = []
            for key, raw in raws.items():
                payload, is_compressed = (tagged(raw, tags), False) if tags else compressed(raw)
                times_ms = int(time.time() * 1000), ttl_ms, 0
                blob = pack(Blob(*times_ms, generation, tuple(generations), payload, is_compressed))
                answers.append(link.call(b"SET", prefix + b"v:" + key, blob, b"PX", b"%d" % ttl_ms))
                answers.append(link.call(b"DEL", prefix + b"l:" + key))
            for answer in answers:
                reply = await answer
                if isinstance(reply, hiredis.ReplyError):
                    link.refused(reply)
        except Away:
            await void_keys(parts, list(raws))
            return
        # A server that takes over may have what was there before.
        parts.debt.told(*[(b"DEL", prefix + b"v:" + key) for key in raws])
        parts.near.drop(raws)


async def _read(link: Link, *keys: bytes) -> list[Any]:
    reply = await link.call(b"MGET", *keys)
    if not isinstance(reply, list):
        link.refused(reply)
    return list(reply)


async def _generations(link: Link, prefix: bytes, tags: tuple[bytes, ...]) -> list[bytes]:
    """The generations of now, of the cache and the tags; made where there are none."""
    keys = [prefix + b"g", *(prefix + b"t:" + tag for tag in tags)]
    new = [link.call(b"SET", key, made(), b"NX") for key in keys]
    reading = _read(link, *keys)
    found = await reading
    for answer in new:
        reply = await answer
        if isinstance(reply, hiredis.ReplyError):
            link.refused(reply)
    return found
