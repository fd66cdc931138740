"""An app as many are: FastAPI, SQLAlchemy with the pool it comes with, and five rows that all requests change.

A request changes two of them and computes for 2 ms between, while others wait for the first.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from sqlalchemy import create_engine, text

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS hot (id int PRIMARY KEY, n bigint NOT NULL)"))
        connection.execute(text("INSERT INTO hot SELECT g, 0 FROM generate_series(1, 5) AS g ON CONFLICT DO NOTHING"))
    yield


app = FastAPI(lifespan=lifespan)


def _burn(cpu_s: float) -> None:
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


@app.get("/{_path:path}")
def change(_path: str) -> PlainTextResponse:
    add = text("UPDATE hot SET n = n + 1 WHERE id = :id")
    first, second = sorted(random.sample(range(1, 6), 2))  # in one order, or they would lock each other out
    with engine.begin() as connection:
        connection.execute(add, {"id": first})
        _burn(0.002)
        connection.execute(add, {"id": second})
    return PlainTextResponse(str(os.getpid()))
