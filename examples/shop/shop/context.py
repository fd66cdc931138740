"""What a request needs from the app around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.templating import Jinja2Templates

from shop.database import Database
from shop.live import Feed
from shop.settings import ROOT, Settings

EMAIL = r"[^@\s]+@[^@\s]+\.[^@\s]+"

templates = Jinja2Templates(ROOT / "templates")
templates.env.filters["money"] = lambda cents: f"€ {cents / 100:,.2f}"


@dataclass(frozen=True, slots=True)
class Shop:
    """One running shop."""

    settings: Settings
    database: Database
    new_orders: Feed
    stock_changes: Feed


def _shop(connection: HTTPConnection) -> Shop:
    return cast(Shop, connection.app.state.shop)


Running = Annotated[Shop, Depends(_shop)]
