"""The pages and the API of the shop, which ask the other services. Templates and cart are the plain shop's."""

from __future__ import annotations

import asyncio
import os
import secrets
from datetime import datetime
from types import SimpleNamespace
from typing import Annotated, Any

from fastapi import FastAPI, Form, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from shop import cart
from shop.context import EMAIL, templates
from shop.settings import ROOT
from starlette.exceptions import HTTPException as Refused
from starlette.middleware.sessions import SessionMiddleware

from headway import service

catalogue, inventory, checkout = service("catalogue"), service("inventory"), service("checkout")

app = FastAPI(title="Shop")
app.add_middleware(SessionMiddleware, secret_key=os.environ["SECRET_KEY"], session_cookie="shop", same_site="lax")
app.mount("/static", StaticFiles(directory=ROOT / "static"), name="static")


class Some:
    """How many there are while the inventory does not say: enough to try. The checkout knows for certain."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def __lt__(self, other: object) -> bool:
        return False

    def __str__(self) -> str:
        return "some"

    __hash__ = object.__hash__


SOME = Some()


async def stock_of(*numbers: int) -> dict[str, Any]:
    """What is left of each; without the inventory a page is still a page."""
    if not numbers:
        return {}
    answer = await inventory.get("/stock", params={"ids": list(numbers)}, deadline=1.0, fallback=None)
    return {} if answer is None or answer.status_code != 200 else answer.json()


async def known(number: int) -> dict[str, Any]:
    """The product, or 404."""
    found = await catalogue.get(f"/products/{number}")
    if found.status_code == 404:
        raise HTTPException(404, "There is no such product.")
    return found.raise_for_status().json()


# --- pages ---------------------------------------------------------------------------------------------------------


def page(request: Request, template: str, code: int = 200, **values: Any) -> Response:
    values |= {"email": request.session.get("email"), "cart_count": sum(cart.quantities(request).values())}
    return templates.TemplateResponse(request, template, values, status_code=code)


def see(request: Request, route: str, **parameters: Any) -> RedirectResponse:
    return RedirectResponse(request.url_for(route, **parameters), status_code=303)


def shown(product: dict[str, Any], stock: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**product, stock=stock.get(str(product["id"]), SOME))


@app.get("/", name="home")
async def home(
    request: Request,
    q: Annotated[str, Query(max_length=100)] = "",
    category: Annotated[str, Query(max_length=40)] = "",
    number: Annotated[int, Query(alias="page", ge=1, le=10_000)] = 1,
) -> Response:
    """The product list."""
    asked = {"q": q.strip(), "category": category, "page": number}
    products, names = await asyncio.gather(
        catalogue.get("/products", params=asked), catalogue.get("/categories", fallback=None)
    )
    found = products.raise_for_status().json()
    stock = await stock_of(*(each["id"] for each in found["products"]))
    listed = [shown(each, stock) for each in found["products"]]
    listing = SimpleNamespace(products=listed, total=found["total"], number=number, last=found["pages"])
    categories = [] if names is None else names.raise_for_status().json()
    return page(request, "home.html", found=listing, categories=categories, q=q, category=category)


@app.get("/products/{product_id}", name="product")
async def product(request: Request, product_id: int) -> Response:
    """One product."""
    found, stock = await asyncio.gather(known(product_id), stock_of(product_id))
    return page(request, "product.html", product=shown(found, stock))


@app.get("/cart", name="cart")
async def show_cart(request: Request) -> Response:
    """The cart and the form that orders it."""
    return await cart_page(request)


async def cart_page(request: Request, problem: str = "", status: int = 200) -> Response:
    wanted = cart.quantities(request)
    products = (await catalogue.get("/some", params={"ids": list(wanted)})).raise_for_status().json() if wanted else {}
    lines = [
        (SimpleNamespace(**products[str(number)]), count) for number, count in wanted.items() if str(number) in products
    ]
    total_cents = sum(each.price_cents * count for each, count in lines)
    return page(
        request, "cart.html", status, lines=lines, total_cents=total_cents, problem=problem, key=secrets.token_hex(16)
    )


@app.post("/cart", name="change_cart")
async def change_cart(
    request: Request,
    product_id: Annotated[int, Form()],
    quantity: Annotated[int, Form(ge=0, le=99)] = 1,
    add: Annotated[bool, Form()] = False,
) -> Response:
    """Set the quantity of a product, or with `add` raise it."""
    await known(product_id)
    before = cart.quantities(request).get(product_id, 0) if add else 0
    cart.put(request, product_id, before + quantity)
    return see(request, "cart")


@app.post("/checkout", name="checkout")
async def order_cart(
    request: Request,
    idempotency_key: Annotated[str, Form(min_length=8, max_length=80)],
    email: Annotated[str, Form(pattern=f"^{EMAIL}$", max_length=254)],
) -> Response:
    """Order what is in the cart. The second submit of the same form leads to the first one's order."""
    wanted = cart.quantities(request)
    if wanted:
        order = {"email": email, "lines": [{"product_id": n, "quantity": count} for n, count in wanted.items()]}
        answer = await checkout.post("/orders", json=order, idempotency_key=idempotency_key)
        if answer.status_code in (409, 422):
            return await cart_page(request, answer.json()["detail"], 409)
        reference = answer.raise_for_status().json()["reference"]
    else:
        mine = (await checkout.get("/orders/by-key", params={"email": email, "key": idempotency_key})).json()
        if not mine:
            return await cart_page(request, "Your cart is empty.", 400)
        reference = mine["reference"]
    cart.clear(request)
    request.session["email"] = email.lower()
    return see(request, "order", reference=reference)


@app.get("/orders", name="orders")
async def my_orders(request: Request) -> Response:
    """The orders of whoever is logged in."""
    email = request.session.get("email")
    if email is None:
        return see(request, "login")
    mine = (await checkout.get("/orders", params={"email": email})).raise_for_status().json()
    return page(request, "orders.html", orders=[await as_order(each, with_names=False) for each in mine])


@app.get("/orders/{reference}", name="order")
async def order_page(request: Request, reference: str) -> Response:
    """One order, for everybody who knows its address."""
    return page(request, "order.html", order=await as_order(await order_of(reference)))


async def order_of(reference: str) -> dict[str, Any]:
    found = await checkout.get(f"/orders/{reference}")
    if found.status_code == 404:
        raise HTTPException(404, "There is no such order.")
    return found.raise_for_status().json()


async def as_order(order: dict[str, Any], *, with_names: bool = True) -> SimpleNamespace:
    """For the templates. An order without the names of its products is still one."""
    names: dict[str, Any] = {}
    if with_names:
        ids = [line["product_id"] for line in order["lines"]]
        answer = await catalogue.get("/some", params={"ids": ids}, fallback=None)
        names = {} if answer is None else answer.raise_for_status().json()
    lines = [
        SimpleNamespace(**line, product=SimpleNamespace(**names.get(str(line["product_id"]), {"name": "…"})))
        for line in order["lines"]
    ]
    told = order | {"created_at": datetime.fromisoformat(order["created_at"]), "lines": lines}
    return SimpleNamespace(**told, customer=SimpleNamespace(email=order["email"]))


@app.get("/login", name="login")
def login_form(request: Request) -> Response:
    """Asks for an e-mail address and believes it: this is a demonstration, not an identity."""
    return page(request, "login.html")


@app.post("/login", name="log_in")
def log_in(request: Request, email: Annotated[str, Form(pattern=f"^{EMAIL}$", max_length=254)]) -> Response:
    """Remember the address in the session."""
    request.session["email"] = email.lower()
    return see(request, "home")


@app.post("/logout", name="log_out")
def log_out(request: Request) -> Response:
    """Forget the session, cart included."""
    request.session.clear()
    return see(request, "home")


# --- the API -------------------------------------------------------------------------------------------------------


def product_json(request: Request, product: dict[str, Any], stock: dict[str, Any]) -> dict[str, Any]:
    address = str(request.url_for("api_product", product_id=product["id"]))
    return product | {"stock": stock.get(str(product["id"])), "url": address}


@app.get("/api/products", name="api_products")
async def api_products(
    request: Request,
    q: Annotated[str, Query(max_length=100)] = "",
    category: Annotated[str, Query(max_length=40)] = "",
    number: Annotated[int, Query(alias="page", ge=1, le=10_000)] = 1,
    per_page: Annotated[int, Query(ge=1, le=100)] = 12,
) -> dict[str, Any]:
    """A page of products; `next` is the address of the page after it."""
    asked = {"q": q, "category": category, "page": number, "per_page": per_page}
    found = (await catalogue.get("/products", params=asked)).raise_for_status().json()
    stock = await stock_of(*(each["id"] for each in found["products"]))
    following = str(request.url.include_query_params(page=number + 1)) if number < found["pages"] else None
    listed = [product_json(request, each, stock) for each in found["products"]]
    return {"products": listed, "total": found["total"], "page": number, "pages": found["pages"], "next": following}


@app.get("/api/products/{product_id}", name="api_product")
async def api_product(request: Request, product_id: int) -> dict[str, Any]:
    """One product."""
    found, stock = await asyncio.gather(known(product_id), stock_of(product_id))
    return product_json(request, found, stock)


@app.post("/api/orders", status_code=201)
async def api_place_order(
    request: Request, idempotency_key: Annotated[str, Header(min_length=8, max_length=80)]
) -> Response:
    """Place an order, as the checkout does."""
    answer = await checkout.post(
        "/orders",
        content=await request.body(),
        headers={"content-type": "application/json"},
        idempotency_key=idempotency_key,
    )
    if answer.status_code in (409, 422):
        return JSONResponse(answer.json(), answer.status_code)
    order = order_json(request, answer.raise_for_status().json())
    return JSONResponse(order, answer.status_code, {"location": order["url"]})


@app.get("/api/orders/{reference}", name="api_order")
async def api_order(request: Request, reference: str) -> dict[str, Any]:
    """One order, for everybody who knows its reference."""
    return order_json(request, await order_of(reference))


def order_json(request: Request, order: dict[str, Any]) -> dict[str, Any]:
    return order | {"url": str(request.url_for("api_order", reference=order["reference"]))}


@app.exception_handler(Refused)
async def refused(request: Request, error: Refused) -> Response:
    """An error for the program that asked, or a page for the person."""
    if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
    return page(request, "error.html", error.status_code, status=error.status_code, detail=error.detail)
