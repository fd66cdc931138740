"""The app: `uvicorn shop.web:app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.sessions import SessionMiddleware

from shop import api, live, pages
from shop.context import Running, Shop, templates
from shop.database import Database
from shop.settings import ROOT, Settings


def create_app(settings: Settings) -> FastAPI:
    """A shop on this database; connects when it starts, not when it is made."""
    database = Database(settings.database_url)
    shop = Shop(
        settings,
        database,
        new_orders=live.Feed(lambda: live.new_orders(database)),
        stock_changes=live.Feed(lambda: live.stock_changes(database)),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(database.prepare)
        yield
        await shop.new_orders.close()
        await shop.stock_changes.close()
        await run_in_threadpool(database.close)

    app = FastAPI(title="Shop", lifespan=lifespan)
    app.state.shop = shop
    app.add_middleware(SessionMiddleware, secret_key=settings.secret_key, session_cookie="shop", same_site="lax")
    app.add_exception_handler(HTTPException, _refused)
    app.add_api_route("/healthz", healthz, include_in_schema=False)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=ROOT / "static"), name="static")
    return app


def healthz(shop: Running) -> Response:
    """200 while the database answers, 503 otherwise."""
    try:
        shop.database.answers()
    except SQLAlchemyError:
        return JSONResponse({"status": "the database does not answer"}, 503)
    return JSONResponse({"status": "ok"})


async def _refused(request: Request, error: Exception) -> Response:
    """An error for the program that asked, or a page for the person."""
    assert isinstance(error, HTTPException)
    if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
    values = {
        "status": error.status_code,
        "detail": error.detail,
        "email": request.session.get("email"),
        "cart_count": 0,
    }
    return templates.TemplateResponse(request, "error.html", values, error.status_code, error.headers)


app = create_app(Settings.from_environment())
