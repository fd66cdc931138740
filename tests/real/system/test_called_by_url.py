"""Two apps of different frameworks, unmodified, that know each other by URLs in their environment alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from harness import Running

FLASK = """
import os
from urllib.request import Request, urlopen

from flask import Flask, request

app = Flask(__name__)

@app.get("/products/<name>")
def product(name):
    with urlopen(os.environ["STOCK_URL"] + "stock/" + name) as answer:
        return f"{name}: {answer.read().decode()} in stock, {request.remote_addr}"

@app.get("/names/<name>")
def name(name):
    return name.upper()

@app.post("/orders")
def order():
    asked = Request(os.environ["STOCK_URL"] + "take", data=request.get_data(), method="POST")
    with urlopen(asked) as answer:
        return answer.read(), answer.status
"""
DJANGO = """
import os
from urllib.request import urlopen

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

def stock(request, name):
    with urlopen(os.environ["SHOP_URL"] + "/names/" + name) as answer:
        shown = answer.read().decode()
    return HttpResponse(f"7 of {shown} for {request.META['REMOTE_ADDR']} at {request.get_host()}")

def take(request):
    return HttpResponse(request.body, status=201)

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for a test",
    ALLOWED_HOSTS=["127.0.0.1"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)
urlpatterns = [path("stock/<name>", stock), path("take", take)]
app = get_wsgi_application()
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.shop]
app = "shop_site:app"
routes = ["/"]
replicas = 1
threads = 4
env = { STOCK_URL = "{stock.url}/" }
[services.stock]
app = "stock_site:app"
replicas = 2
env = { SHOP_URL = "{shop.url}" }
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    for framework in ("flask", "django"):
        if find_spec(framework) is None:
            pytest.skip(f"{framework} is not installed")
    folder: Path = tmp_path_factory.mktemp("by_url")
    (folder / "shop_site.py").write_text(FLASK)
    (folder / "stock_site.py").write_text(DJANGO)
    with Running(folder, DECLARATION) as running:
        yield running


def test_there_and_back(system: Running) -> None:
    """Flask asks Django, which asks Flask again before it answers."""
    answer = httpx.get(system.url + "/products/kettle", timeout=60)
    assert answer.status_code == 200
    port = json.loads(system.folders.ports.read_text())["stock"]
    assert answer.text == f"kettle: 7 of KETTLE for 127.0.0.1 at 127.0.0.1:{port} in stock, 127.0.0.1"


def test_a_body_and_a_status_come_through(system: Running) -> None:
    answer = httpx.post(system.url + "/orders", content=b"x" * 300_000, timeout=60)
    assert (answer.status_code, len(answer.content)) == (201, 300_000)


def test_neither_waits_for_the_other_at_start(system: Running) -> None:
    told = system.journal()
    first_ready = next(at for at, entry in enumerate(told) if entry["reason"].startswith("ready after"))
    started = {entry["about"] for entry in told[:first_ready] if entry["what"] == "start"}
    assert started >= {"shop.1", "stock.1", "stock.2"}
