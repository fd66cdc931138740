"""What there is to buy, and at which price. Reads much and changes seldom, so nearly all of it comes from the cache."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query

from headway import cache, database

app = FastAPI(title="Catalogue")
main, hot = database("main"), cache("hot")

PER_PAGE, PER_PAGE_MAX = 12, 100
IDS_MAX = 100
COLUMNS = "id, sku, name, category, description, price_cents, image"
MATCHES = "($1 = '' OR strpos(lower(name || ' ' || description), lower($1)) > 0) AND ($2 = '' OR category = $2)"


@hot.cached(ttl=30, stale=300, tags=["products"])
async def page_of(text: str, category: str, page: int, per_page: int) -> dict[str, Any]:
    async with main.at() as connection:
        total = await connection.fetchval(f"SELECT count(*) FROM products WHERE {MATCHES}", text, category)
        rows = await connection.fetch(
            f"SELECT {COLUMNS} FROM products WHERE {MATCHES} ORDER BY id LIMIT $3 OFFSET $4",
            text, category, per_page, (page - 1) * per_page,
        )  # fmt: skip
    return {"products": [dict(row) for row in rows], "total": total, "pages": max(1, -(-total // per_page))}


@hot.cached(ttl=30, stale=300, tags=lambda number: [f"product:{number}", "products"])
async def product_of(number: int) -> dict[str, Any] | None:
    async with main.at() as connection:
        row = await connection.fetchrow(f"SELECT {COLUMNS} FROM products WHERE id = $1", number)
    return None if row is None else dict(row)


@hot.cached(ttl=30, stale=300, tags=["products"])
async def all_categories() -> list[str]:
    async with main.at() as connection:
        return [row["category"] for row in await connection.fetch("SELECT DISTINCT category FROM products ORDER BY 1")]


@app.get("/products")
async def products(
    q: Annotated[str, Query(max_length=100)] = "",
    category: Annotated[str, Query(max_length=40)] = "",
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
    per_page: Annotated[int, Query(ge=1, le=PER_PAGE_MAX)] = PER_PAGE,
) -> dict[str, Any]:
    """A page of products whose name or description contains `q`."""
    return await page_of(q, category, page, per_page)


@app.get("/products/{number}")
async def product(number: int) -> dict[str, Any]:
    """One product."""
    found = await product_of(number) if -(2**31) <= number < 2**31 else None
    if found is None:
        raise HTTPException(404, "There is no such product.")
    return found


@app.get("/some")
async def some(ids: Annotated[list[int], Query(max_length=IDS_MAX)]) -> dict[int, dict[str, Any]]:
    """Those of these products that there are, by number."""
    found = [await product_of(number) for number in dict.fromkeys(ids)]
    return {each["id"]: each for each in found if each is not None}


@app.get("/categories")
async def categories() -> list[str]:
    """The names of all categories."""
    return await all_categories()
