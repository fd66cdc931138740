"""What goes wrong behind the control API is an answer that a client understands, be it a defect of ours."""

from __future__ import annotations

import asyncio
import json

import psycopg
import pytest

from headway.control.api import _told
from headway.errors import Conflict


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (Conflict("another apply is in progress"), 409, "another apply is in progress"),
        (KeyError("service"), 400, "the request is malformed: 'service'"),
        (psycopg.OperationalError("the connection is lost\nin the middle"), 400, "the connection is lost"),
        (RuntimeError("changed size"), 500, "the controller failed: RuntimeError: changed size"),
    ],
)
def test_each_error_is_told(error, status, message):
    async def endpoint(_request):
        raise error

    answer = asyncio.run(_told(endpoint)(None))
    assert (answer.status_code, json.loads(answer.body)["error"]["message"]) == (status, message)
