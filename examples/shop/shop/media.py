"""Product pictures: streamed to disk in chunks, so that a large one costs no memory, and appear whole or not at all."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool

SIZE_MAX_BYTES = 64 * 2**20
_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"RIFF": "webp"}
_MAGIC_BYTES = 8
_NAME = re.compile(r"[0-9]+-[0-9a-f]{16}\.(png|jpg|gif|webp)")


class PictureRefused(Exception):
    """The upload is no picture that the shop takes."""


class PictureTooLarge(PictureRefused):
    """The upload is larger than SIZE_MAX_BYTES."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A stored file."""

    name: str
    size_bytes: int
    sha256: str


async def store(folder: Path, product_id: int, chunks: AsyncIterator[bytes]) -> Picture:
    """Write the chunks to a file named by their content; leaves nothing behind when they end early or are refused."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{secrets.token_hex(8)}.part"
    digest, size_bytes, head = hashlib.sha256(), 0, b""
    try:
        with unfinished.open("xb") as file:
            async for chunk in chunks:
                head = head if len(head) >= _MAGIC_BYTES else head + chunk[:_MAGIC_BYTES]
                size_bytes += len(chunk)
                if size_bytes > SIZE_MAX_BYTES:
                    raise PictureTooLarge(f"A picture may have {SIZE_MAX_BYTES // 2**20} MiB at most.")
                digest.update(chunk)
                await run_in_threadpool(file.write, chunk)
        suffix = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), None)
        if suffix is None:
            raise PictureRefused("This is not a PNG, JPEG, GIF or WebP picture.")
        name = f"{product_id}-{digest.hexdigest()[:16]}.{suffix}"
        unfinished.replace(folder / name)
    finally:
        unfinished.unlink(missing_ok=True)
    return Picture(name, size_bytes, digest.hexdigest())


def find(folder: Path, name: str) -> Path | None:
    """The stored file of this name; None for names that `store` cannot have made and for files that are gone."""
    path = folder / name
    return path if _NAME.fullmatch(name) and path.is_file() else None
