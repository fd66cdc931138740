"""The cart lives in the signed session cookie: product number -> quantity. No server has to remember it."""

from __future__ import annotations

from starlette.requests import Request

from shop.orders import LINES_MAX, QUANTITY_MAX


def quantities(request: Request) -> dict[int, int]:
    """What is in the cart."""
    return {int(product_id): quantity for product_id, quantity in request.session.get("cart", {}).items()}


def put(request: Request, product_id: int, quantity: int) -> None:
    """Set how many of a product are in the cart; zero or less takes it out. A full cart takes no further products."""
    cart = quantities(request)
    cart.pop(product_id, None)
    if quantity > 0 and len(cart) < LINES_MAX:
        cart[product_id] = min(quantity, QUANTITY_MAX)
    request.session["cart"] = {str(key): value for key, value in sorted(cart.items())}


def clear(request: Request) -> None:
    """Empty the cart."""
    request.session.pop("cart", None)
