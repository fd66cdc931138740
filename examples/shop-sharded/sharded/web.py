"""The app. Pages, API and feeds are the plain shop's; what its owner would edit in its files is put in their place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from shop import live
from shop import orders as plain
from shop.web import app
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from headway.errors import HeadwayError
from sharded import orders, reservations
from sharded.models import OrderNews

__all__ = ["app"]

SWEEP_S = 20.0

log = logging.getLogger("shop.sharded")

plain.place_order = orders.place_order
plain.by_key = orders.by_key
plain.by_reference = orders.by_reference
plain.of_customer = orders.of_customer
# The feed polls a table that stays in one place.
live.Order = OrderNews
live.order_news = OrderNews.told

_plain_lifespan = app.router.lifespan_context


@asynccontextmanager
async def _lifespan(running: FastAPI) -> AsyncIterator[None]:
    async with _plain_lifespan(running):
        sweeping = asyncio.create_task(_sweep(running))
        yield
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)


async def _sweep(running: FastAPI) -> None:
    """At the start, for the replica that this one may stand in for, and now and then."""
    while True:
        try:
            await run_in_threadpool(reservations.sweep, running.state.shop.database)
        except (SQLAlchemyError, HeadwayError) as error:  # a database is away: what is left waits with it
            log.warning("reservations were not swept, trying again: %s", error)
        await asyncio.sleep(SWEEP_S)


app.router.lifespan_context = _lifespan
