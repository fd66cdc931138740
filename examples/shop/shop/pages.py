"""The HTML pages and the forms on them. A form answers 303 to a page, so that reloading never submits again."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, RedirectResponse, Response

from shop import cart, catalogue, media, orders, uploads
from shop.context import EMAIL, Running, Shop, templates
from shop.models import Product

router = APIRouter(include_in_schema=False)

Key = Annotated[str, Form(min_length=8, max_length=80)]


def _page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    values |= {"email": request.session.get("email"), "cart_count": sum(cart.quantities(request).values())}
    return templates.TemplateResponse(request, template, values, status_code=status)


def _see(request: Request, route: str, **parameters: Any) -> RedirectResponse:
    return RedirectResponse(request.url_for(route, **parameters), status_code=303)


@router.get("/", name="home")
def home(
    request: Request,
    shop: Running,
    q: Annotated[str, Query(max_length=100)] = "",
    category: Annotated[str, Query(max_length=40)] = "",
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
) -> Response:
    """The product list."""
    with shop.database.reading() as session:
        found = catalogue.search(session, q.strip(), category, page)
        names = catalogue.categories(session)
    return _page(request, "home.html", found=found, categories=names, q=q, category=category)


@router.get("/products/{product_id}", name="product")
def product(request: Request, shop: Running, product_id: int) -> Response:
    """One product."""
    with shop.database.reading() as session:
        found = session.get(Product, product_id)
    if found is None:
        raise HTTPException(404, "There is no such product.")
    return _page(request, "product.html", product=found)


@router.post("/products/{product_id}/image", name="upload_image")
async def upload_image(request: Request, shop: Running, product_id: int, image: UploadFile) -> Response:
    """The picture form on the product page."""
    await uploads.replace_picture(request, shop, product_id, uploads.chunks_of(image))
    return _see(request, "product", product_id=product_id)


@router.get("/media/{name}", name="media")
def picture(shop: Running, name: str) -> Response:
    """A product's picture. Its name changes with its content, so it may be kept for ever."""
    path = media.find(shop.settings.media, name)
    if path is None:
        raise HTTPException(404, "There is no such picture.")
    return FileResponse(path, headers={"cache-control": "public, max-age=31536000, immutable"})


@router.get("/cart", name="cart")
def show_cart(request: Request, shop: Running) -> Response:
    """The cart and the form that orders it."""
    return _cart_page(request, shop)


def _cart_page(request: Request, shop: Shop, problem: str = "", status: int = 200) -> Response:
    wanted = cart.quantities(request)
    with shop.database.reading() as session:
        known = [product for key in wanted if (product := session.get(Product, key)) is not None]
    lines = [(product, wanted[product.id]) for product in known]
    total_cents = sum(product.price_cents * quantity for product, quantity in lines)
    values = {"lines": lines, "total_cents": total_cents, "problem": problem, "key": secrets.token_hex(16)}
    return _page(request, "cart.html", status, **values)


@router.post("/cart", name="change_cart")
def change_cart(
    request: Request,
    shop: Running,
    product_id: Annotated[int, Form()],
    quantity: Annotated[int, Form(ge=0, le=orders.QUANTITY_MAX)] = 1,
    add: Annotated[bool, Form()] = False,
) -> Response:
    """Set the quantity of a product, or with `add` raise it."""
    with shop.database.reading() as session:
        if session.get(Product, product_id) is None:
            raise HTTPException(404, "There is no such product.")
    before = cart.quantities(request).get(product_id, 0) if add else 0
    cart.put(request, product_id, before + quantity)
    return _see(request, "cart")


@router.post("/checkout", name="checkout")
def checkout(
    request: Request,
    shop: Running,
    idempotency_key: Key,
    email: Annotated[str, Form(pattern=f"^{EMAIL}$", max_length=254)],
) -> Response:
    """Order what is in the cart. The second submit of the same form leads to the first one's order."""
    email = email.lower()
    wanted = cart.quantities(request)
    with shop.database.reading() as session:
        order = orders.by_key(session, email, idempotency_key)
    if order is None:
        if not wanted:
            return _cart_page(request, shop, "Your cart is empty.", 400)
        try:
            order = orders.place_order(shop.database, email, wanted, idempotency_key).order
        except orders.OrderRefused as refused:
            return _cart_page(request, shop, str(refused), 409)
        cart.clear(request)
    request.session["email"] = email
    return _see(request, "order", reference=order.reference)


@router.get("/orders", name="orders")
def my_orders(request: Request, shop: Running) -> Response:
    """The orders of whoever is logged in."""
    email = request.session.get("email")
    if email is None:
        return _see(request, "login")
    with shop.database.reading() as session:
        mine = orders.of_customer(session, email)
    return _page(request, "orders.html", orders=mine)


@router.get("/orders/{reference}", name="order")
def order(request: Request, shop: Running, reference: str) -> Response:
    """One order, for everybody who knows its address."""
    with shop.database.reading() as session:
        found = orders.by_reference(session, reference)
    if found is None:
        raise HTTPException(404, "There is no such order.")
    return _page(request, "order.html", order=found)


@router.get("/login", name="login")
def login_form(request: Request) -> Response:
    """Asks for an e-mail address and believes it: this is a demonstration, not an identity."""
    return _page(request, "login.html")


@router.post("/login", name="log_in")
def log_in(request: Request, email: Annotated[str, Form(pattern=f"^{EMAIL}$", max_length=254)]) -> Response:
    """Remember the address in the session."""
    request.session["email"] = email.lower()
    return _see(request, "home")


@router.post("/logout", name="log_out")
def log_out(request: Request) -> Response:
    """Forget the session, cart included."""
    request.session.clear()
    return _see(request, "home")
