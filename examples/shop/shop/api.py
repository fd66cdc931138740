"""The JSON API, the exports, and what stays open: the event stream and the WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from shop import catalogue, live, orders, uploads
from shop.context import EMAIL, Running
from shop.models import Order, Product

router = APIRouter()

HEARTBEAT_S = 10.0


class Line(BaseModel):
    """So many of one product."""

    product_id: int
    quantity: int = Field(ge=1, le=orders.QUANTITY_MAX)


class NewOrder(BaseModel):
    """The body of POST /api/orders."""

    email: str = Field(pattern=f"^{EMAIL}$", max_length=254)
    lines: list[Line] = Field(min_length=1, max_length=orders.LINES_MAX)


class Watch(BaseModel):
    """A message on the WebSocket: the products to tell about from now on."""

    watch: list[int] = Field(max_length=100)


def _product_json(request: Request, product: Product) -> dict[str, Any]:
    return {
        "id": product.id,
        "sku": product.sku,
        "name": product.name,
        "category": product.category,
        "description": product.description,
        "price_cents": product.price_cents,
        "stock": product.stock,
        "url": str(request.url_for("api_product", product_id=product.id)),
        "image": str(request.url_for("media", name=product.image)) if product.image else None,
    }


def _order_json(request: Request, order: Order) -> dict[str, Any]:
    return {
        "id": order.id,
        "reference": order.reference,
        "email": order.customer.email,
        "total_cents": order.total_cents,
        "lines": [
            {"product_id": line.product_id, "quantity": line.quantity, "price_cents": line.price_cents}
            for line in order.lines
        ],
        "url": str(request.url_for("api_order", reference=order.reference)),
    }


@router.get("/api/products", name="api_products")
def products(
    request: Request,
    shop: Running,
    q: Annotated[str, Query(max_length=100)] = "",
    category: Annotated[str, Query(max_length=40)] = "",
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
    per_page: Annotated[int, Query(ge=1, le=catalogue.PER_PAGE_MAX)] = catalogue.PER_PAGE,
) -> dict[str, Any]:
    """A page of products; `next` is the address of the page after it."""
    with shop.database.reading() as session:
        found = catalogue.search(session, q, category, page, per_page)
        listed = [_product_json(request, product) for product in found.products]
    following = str(request.url.include_query_params(page=page + 1)) if page < found.last else None
    return {"products": listed, "total": found.total, "page": page, "pages": found.last, "next": following}


@router.get("/api/products/{product_id}", name="api_product")
def product(request: Request, shop: Running, product_id: int) -> dict[str, Any]:
    """One product."""
    with shop.database.reading() as session:
        found = session.get(Product, product_id)
    if found is None:
        raise HTTPException(404, "There is no such product.")
    return _product_json(request, found)


@router.put("/api/products/{product_id}/image", status_code=201)
async def put_image(request: Request, shop: Running, product_id: int) -> dict[str, Any]:
    """The picture as the bare body of the request, chunked or not."""
    stored = await uploads.replace_picture(request, shop, product_id, request.stream())
    return {
        "url": str(request.url_for("media", name=stored.name)),
        "size_bytes": stored.size_bytes,
        "sha256": stored.sha256,
    }


@router.post("/api/orders", status_code=201)
def place_order(
    request: Request,
    response: Response,
    shop: Running,
    wanted: NewOrder,
    idempotency_key: Annotated[str, Header(min_length=8, max_length=80)],
) -> dict[str, Any]:
    """Place an order: 201 for a new one, 200 when the key has been used for the same order before."""
    quantities: dict[int, int] = {}
    for line in wanted.lines:
        quantities[line.product_id] = quantities.get(line.product_id, 0) + line.quantity
    try:
        placed = orders.place_order(shop.database, wanted.email.lower(), quantities, idempotency_key)
    except orders.UnknownProduct as refused:
        raise HTTPException(422, str(refused)) from refused
    except orders.OrderRefused as refused:
        raise HTTPException(409, str(refused)) from refused
    body = _order_json(request, placed.order)
    response.status_code = 201 if placed.created else 200
    response.headers["location"] = body["url"]
    return body


@router.get("/api/orders/{reference}", name="api_order")
def order(request: Request, shop: Running, reference: str) -> dict[str, Any]:
    """One order, for everybody who knows its reference."""
    with shop.database.reading() as session:
        found = orders.by_reference(session, reference)
        if found is None:
            raise HTTPException(404, "There is no such order.")
        return _order_json(request, found)


@router.get("/export/products.csv")
def export_products(shop: Running) -> StreamingResponse:
    """All products, as a download that is written while it is read."""
    headers = {"content-disposition": 'attachment; filename="products.csv"'}
    return StreamingResponse(catalogue.products_csv(shop.database), media_type="text/csv", headers=headers)


@router.get("/events")
async def events(shop: Running, last_event_id: Annotated[int | None, Header(ge=0)] = None) -> StreamingResponse:
    """New orders as server-sent events, with the time now and then. A browser that reconnects misses none."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_order_events(shop, last_event_id), media_type="text/event-stream", headers=headers)


async def _order_events(shop: Running, last_event_id: int | None) -> AsyncIterator[str]:
    async with shop.new_orders.listen() as queue:
        yield _clock()
        told: set[int] = set()
        if last_event_id is not None:
            for news in await run_in_threadpool(live.orders_after, shop.database, last_event_id):
                told.add(news["id"])
                yield _order_event(news)
        while True:
            try:
                news = await asyncio.wait_for(queue.get(), HEARTBEAT_S)
            except TimeoutError:
                yield _clock()
                continue
            if news is None:
                return
            if news["id"] not in told:
                yield _order_event(news)


def _clock() -> str:
    return f"event: clock\ndata: {datetime.now(UTC).isoformat(timespec='seconds')}\n\n"


def _order_event(news: live.News) -> str:
    return f"event: order\nid: {news['id']}\ndata: {json.dumps(news)}\n\n"


@router.websocket("/ws/stock")
async def watch_stock(socket: WebSocket, shop: Running) -> None:
    """Send {"watch": [1, 2]}; get {"product_id": 1, "stock": 40} for each now and whenever one changes."""
    await socket.accept()
    watched: set[int] = set()

    async def listen_to_client() -> None:
        while True:
            try:
                wanted = Watch.model_validate_json(await socket.receive_text())
            except ValidationError:
                await socket.send_json({"error": 'Send {"watch": [product numbers]}, at most 100.'})
                continue
            watched.clear()
            watched.update(wanted.watch)
            for news in await run_in_threadpool(live.stock_of, shop.database, wanted.watch):
                await socket.send_json(news)

    async with shop.stock_changes.listen() as queue:
        listening = asyncio.create_task(listen_to_client())
        telling = asyncio.create_task(_tell(socket, queue, watched))
        done, pending = await asyncio.wait({listening, telling}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            if not isinstance(task.exception(), WebSocketDisconnect | None):
                task.result()
    if telling in done and telling.exception() is None:
        await socket.close(1012)  # the shop is going down, or this client reads too slowly: come back


async def _tell(socket: WebSocket, queue: asyncio.Queue[live.News | None], watched: set[int]) -> None:
    while (news := await queue.get()) is not None:
        if news["product_id"] in watched:
            await socket.send_json(news)
