"""Placing orders: the prices are the catalogue's, the stock the inventory's, the order is ours.

No transaction holds all three. The stock is taken first, under the order's name, then the order is written; when that
fails the stock goes back. Whoever dies in between leaves a reservation without an order: the same form submitted again
goes on with it, and else a sweep gives it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any

import asyncpg
from fastapi import FastAPI, Header, HTTPException, Response
from pydantic import BaseModel, Field

from headway import database, service
from headway.errors import HeadwayError

main, catalogue, inventory = database("main"), service("catalogue"), service("inventory")

QUANTITY_MAX, LINES_MAX = 99, 20
SWEEP_S = 20.0
log = logging.getLogger("shop.checkout")


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    sweeping = asyncio.create_task(_sweep())
    yield
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)


app = FastAPI(title="Checkout", lifespan=lifespan)


class Line(BaseModel):
    """So many of one product."""

    product_id: int
    quantity: int = Field(ge=1, le=QUANTITY_MAX)


class NewOrder(BaseModel):
    """The body of POST /orders."""

    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$", max_length=254)
    lines: list[Line] = Field(min_length=1, max_length=LINES_MAX)


@app.post("/orders", status_code=201)
async def place_order(
    response: Response, wanted: NewOrder, idempotency_key: Annotated[str, Header(min_length=8, max_length=80)]
) -> dict[str, Any]:
    """Place an order: 201 for a new one, 200 when this customer has used the key for the same order before."""
    email = wanted.email.lower()
    lines: dict[int, int] = {}
    for line in wanted.lines:
        lines[line.product_id] = lines.get(line.product_id, 0) + line.quantity
    if (earlier := await _by_key(email, idempotency_key)) is not None:
        return _same(response, earlier, lines)
    name = f"{email} {idempotency_key}"
    products = (await catalogue.get("/some", params={"ids": list(lines)})).raise_for_status().json()
    if missing := [number for number in lines if str(number) not in products]:
        raise HTTPException(422, f"There is no product {min(missing)}.")
    taken = await inventory.post(
        "/reservations", json={"lines": {str(number): count for number, count in lines.items()}}, idempotency_key=name
    )
    if taken.status_code in (409, 422):
        raise HTTPException(taken.status_code, taken.json()["detail"])
    taken.raise_for_status()
    prices = {number: products[str(number)]["price_cents"] for number in lines}
    try:
        order = await _write(email, idempotency_key, lines, prices)
    except asyncpg.UniqueViolationError:  # the second submit of the same form was quicker
        order = None
    if order is None:
        return _same(response, await _by_key(email, idempotency_key) or {}, lines)
    with contextlib.suppress(HeadwayError):  # the sweep will
        await inventory.put(f"/reservations/{name}")
    return order


@app.get("/orders/by-key")
async def order_by_key(email: str, key: str) -> dict[str, Any] | None:
    """The order that this customer placed with this key, if there is one."""
    return await _by_key(email.lower(), key)


@app.get("/orders/{reference}")
async def order(reference: str) -> dict[str, Any]:
    """One order, for everybody who knows its reference."""
    async with main.at() as connection:
        row = await connection.fetchrow(f"{ORDERS} WHERE o.reference = $1", reference[:64])
        if row is None:
            raise HTTPException(404, "There is no such order.")
        return await _told(connection, row)


@app.get("/orders")
async def orders(email: str) -> list[dict[str, Any]]:
    """The customer's latest orders, newest first."""
    async with main.at() as connection:
        rows = await connection.fetch(f"{ORDERS} WHERE c.email = $1 ORDER BY o.id DESC LIMIT 100", email)
        return [await _told(connection, row) for row in rows]


ORDERS = (
    "SELECT o.id, o.reference, o.total_cents, o.created_at, c.email FROM orders o "
    "JOIN customers c ON c.id = o.customer_id"
)


async def _by_key(email: str, key: str) -> dict[str, Any] | None:
    async with main.at() as connection:
        row = await connection.fetchrow(f"{ORDERS} WHERE c.email = $1 AND o.idempotency_key = $2", email, key)
        return None if row is None else await _told(connection, row)


async def _told(connection: Any, row: Any) -> dict[str, Any]:
    lines = await connection.fetch(
        "SELECT product_id, quantity, price_cents FROM order_lines WHERE order_id = $1 ORDER BY product_id", row["id"]
    )
    return dict(row) | {"lines": [dict(line) for line in lines]}


async def _write(email: str, key: str, lines: dict[int, int], prices: dict[int, int]) -> dict[str, Any]:
    total = sum(count * prices[number] for number, count in lines.items())

    async def write(connection: Any) -> dict[str, Any]:
        customer = await connection.fetchval(
            "INSERT INTO customers (email) VALUES ($1) ON CONFLICT (email) DO UPDATE SET email = $1 RETURNING id", email
        )
        row = await connection.fetchrow(
            "INSERT INTO orders (reference, customer_id, idempotency_key, total_cents) VALUES ($1, $2, $3, $4) "
            "RETURNING id, reference, total_cents, created_at",
            secrets.token_hex(12), customer, key, total,
        )  # fmt: skip
        await connection.executemany(
            "INSERT INTO order_lines VALUES ($1, $2, $3, $4)",
            [(row["id"], number, count, prices[number]) for number, count in sorted(lines.items())],
        )
        return await _told(connection, dict(row) | {"email": email})

    return await main.run(None, write)


def _same(response: Response, order: dict[str, Any], lines: dict[int, int]) -> dict[str, Any]:
    if {line["product_id"]: line["quantity"] for line in order.get("lines", ())} != lines:
        raise HTTPException(409, "This Idempotency-Key was used for another order.")
    response.status_code = 200
    return order


async def _sweep() -> None:
    """Reservations that nobody settled: either their order is there, or it never will be."""
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            for name in (await inventory.get("/unsettled")).raise_for_status().json():
                email, _, key = name.partition(" ")
                if await _by_key(email, key) is None:
                    await inventory.delete(f"/reservations/{name}")
                else:
                    await inventory.put(f"/reservations/{name}")
        except HeadwayError as error:  # the next turn will
            log.warning("reservations were not swept: %s", error)
