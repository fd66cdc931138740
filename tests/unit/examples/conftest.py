"""The example shop in this process, on a SQLite file of its own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture(scope="session", autouse=True)
def _importable(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`import shop` finds the example; its module-level app would keep its SQLite file in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES / "shop"))
        patch.setenv("SECRET_KEY", "only-for-tests")
        patch.setenv("DATABASE_URL", f"sqlite:///{tmp_path_factory.mktemp('shop') / 'module.sqlite3'}")
        yield
    for name in [name for name in sys.modules if name == "shop" or name.startswith("shop.")]:
        del sys.modules[name]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def app(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Any]:
    """A started shop on an empty folder."""
    from shop.settings import Settings
    from shop.web import create_app

    app = create_app(Settings(f"sqlite:///{tmp_path / 'shop.sqlite3'}", "only-for-tests", tmp_path / "media"))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
def browser(app: Any) -> Callable[..., httpx.AsyncClient]:
    """`browser(base_url)` -> a client with cookies of its own that calls the app directly."""

    def open_one(base_url: str = "https://shop.example", **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url, **options)

    return open_one
