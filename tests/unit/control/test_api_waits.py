"""Who asks for a database may have to wait for the loop; whoever asks for anything else does not wait with them."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from headway.control.db_api import routes
from headway.control.tasks import Tasks


@pytest.mark.parametrize("query", [{}, {"database": "orders"}])
def test_the_api_goes_on_while_a_tender_is_asked_for(query):
    goes_on = threading.Event()
    tender = SimpleNamespace(status=lambda: {"shards": 4})

    def tenders():
        assert goes_on.wait(20), "the API stood still"
        return {"orders": tender}

    departures = SimpleNamespace(status=lambda _name: None)
    found = routes(tenders, None, list, dict, Tasks(), None, departures, None, lambda endpoint: endpoint)
    status = next(route.endpoint for route in found if route.path == "/db")

    async def ask():
        asking = asyncio.create_task(status(SimpleNamespace(query_params=query)))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, goes_on.set)
        return await asking

    assert b'"shards":4' in asyncio.run(ask()).body
