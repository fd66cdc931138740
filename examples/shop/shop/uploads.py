"""A new picture for a product, from a form or from the API."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import HTTPException, Request, UploadFile
from starlette.concurrency import run_in_threadpool

from shop import media
from shop.context import Shop
from shop.models import Product

CHUNK_BYTES = 256 * 2**10


async def chunks_of(upload: UploadFile) -> AsyncIterator[bytes]:
    """The file of a multipart form, which the form parser has put on disk already."""
    while chunk := await upload.read(CHUNK_BYTES):
        yield chunk


async def replace_picture(request: Request, shop: Shop, product_id: int, chunks: AsyncIterator[bytes]) -> media.Picture:
    """Store the picture and let the product point to it. For people who are logged in."""
    if request.session.get("email") is None:
        raise HTTPException(401, "Log in first.")
    if not await run_in_threadpool(_exists, shop, product_id):
        raise HTTPException(404, "There is no such product.")
    try:
        stored = await media.store(shop.settings.media, product_id, chunks)
    except media.PictureTooLarge as refused:
        raise HTTPException(413, str(refused)) from refused
    except media.PictureRefused as refused:
        raise HTTPException(415, str(refused)) from refused
    before = await run_in_threadpool(_point_to, shop, product_id, stored.name)
    if before not in (None, stored.name):
        (shop.settings.media / before).unlink(missing_ok=True)
    return stored


def _exists(shop: Shop, product_id: int) -> bool:
    with shop.database.reading() as session:
        return session.get(Product, product_id) is not None


def _point_to(shop: Shop, product_id: int, name: str) -> str | None:
    with shop.database.writing() as session:
        product = session.get_one(Product, product_id, with_for_update=True)
        before, product.image = product.image, name
        return before
