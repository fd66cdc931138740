"""Makes values void: at the server, now or when it is back, and in this process at once."""

from __future__ import annotations

import asyncio

import hiredis

from headway.caching.client.debt import Void, command
from headway.caching.client.link import Away
from headway.caching.client.parts import Parts
from headway.caching.scripts import COUNTER


async def void_keys(parts: Parts, keys: list[bytes]) -> None:
    """The values of these keys, and loads that are under way for them."""
    prefix = parts.told.prefix
    try:
        await _tell(parts, [(b"DEL", prefix + b"v:" + key, prefix + b"l:" + key) for key in keys])
    finally:
        parts.near.drop(keys)


async def void_tags(parts: Parts, tags: tuple[bytes, ...]) -> None:
    """All values that have one of these tags."""
    prefix = parts.told.prefix
    try:
        await _tell(parts, [(b"VOID", prefix + COUNTER, prefix + b"t:" + tag) for tag in tags])
    finally:
        parts.near.drop([b"t:" + tag for tag in tags])


async def void_all(parts: Parts) -> None:
    """Everything in the cache."""
    try:
        await _tell(parts, [(b"SET", parts.told.prefix + b"g")])
    finally:
        parts.tracking.generation = None  # asked for again before the next value is believed
        parts.near.clear()


async def _tell(parts: Parts, voids: list[Void]) -> None:
    try:
        link = await parts.loads().up()
        for answer in [link.send(command(void)) for void in voids]:
            reply = await answer
            if isinstance(reply, hiredis.ReplyError):
                link.refused(reply)
    except Away:
        parts.owe(*voids)
    except asyncio.CancelledError:  # it may be on its way, or not
        parts.debt.add(*voids)
        raise
    else:
        parts.debt.told(*voids)
