"""A system whose tables come from a Django project: first start, a table more, a move and a split, what goes wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from harness import Running

SETTINGS = """
DATABASES = {
    "default": {"ENGINE": "headway.sharding.client.django_backend", "NAME": "main"},
    "orders": {"ENGINE": "headway.sharding.client.django_backend", "NAME": "orders"},
}
DATABASE_ROUTERS = ["headway.sharding.client.django.ShardRouter"]
INSTALLED_APPS += ["sales"]
import os
assert os.environ["MAIN"].startswith("postgresql://") or "makemigrations" in sys.argv
"""
MODELS = """
from django.db import models

class Order(models.Model):
    id = models.BigIntegerField(primary_key=True)
    customer = models.BigIntegerField()
    class Meta:
        db_table = "orders"
"""
CART = """
class Cart(models.Model):
    customer = models.BigIntegerField(primary_key=True)
    class Meta:
        db_table = "carts"
"""
URLS = """
from django.http import JsonResponse
from django.urls import path
from headway.sharding.client.django import run_sharded, shard
from sales.models import Order

def orders(request, customer):
    if request.method == "POST":
        run_sharded("orders", customer, lambda: Order.objects.create(customer=customer, id=customer))
    with shard("orders", customer):
        return JsonResponse(list(Order.objects.filter(customer=customer).values()), safe=False)

urlpatterns = [path("<int:customer>", orders)]
"""
DECLARATION = """
[system]
name = "shop"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "config.wsgi:application"
routes = ["/"]
replicas = 1
env = { MAIN = "{main.url}" }
uses = ["main", "orders"]
[databases.main]
[databases.orders]
shards = 4
servers = 2
keys = { orders = "customer" }
migrations = { django = "manage.py" }
"""


def manage(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "manage.py", *arguments]
    subprocess.run(command, cwd=folder, env={"MAIN": "postgresql://"}, check=True, capture_output=True, timeout=180)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "django", "startproject", "config", "."], cwd=folder, check=True)
    settings = folder / "config" / "settings.py"
    text = settings.read_text().replace("'django.middleware.csrf.CsrfViewMiddleware',", "")
    settings.write_text("import sys\n" + text + SETTINGS)
    (folder / "config" / "urls.py").write_text(URLS)
    (folder / "sales" / "migrations").mkdir(parents=True)
    for name in ("sales/__init__.py", "sales/migrations/__init__.py"):
        (folder / name).touch()
    (folder / "sales" / "models.py").write_text(MODELS)
    manage(folder, "makemigrations", "sales", "-v0")  # before anything of the system is there
    with Running(folder, DECLARATION, detached=True) as running:
        yield running


def migrated(system: Running) -> dict[str, int]:
    return dict(json.loads(system.ok("db", "migrate", "orders", "--json", timeout_s=180).splitlines()[-1])["applied"])


def test_tables_are_there_when_it_is_up_and_migrations_reach_all_shards_also_moved_and_split_ones(system):
    for customer in range(10):
        assert httpx.post(f"{system.url}/{customer}", timeout=30).json() == [{"id": customer, "customer": customer}]
    assert system.ok("db", "migrate", "orders", timeout_s=180) == "nothing to apply: 4 shards have all 1 migrations\n"
    # A table more: its key first.
    models = system.folder / "sales" / "models.py"
    models.write_text(models.read_text() + CART)
    manage(system.folder, "makemigrations", "sales", "-v0", "-n", "carts")
    assert "sales.0002_carts makes no table carts in shards" in system.ok(
        "db", "migrate", "orders", "--dry-run", timeout_s=180
    )
    toml = system.folder / "headway.toml"
    toml.write_text(toml.read_text().replace('"customer" }', '"customer", carts = "customer" }'))
    system.ok("up", "--detach", timeout_s=180)
    assert httpx.get(f"{system.url}/4", timeout=30).json() == [{"id": 4, "customer": 4}]
    assert 'CREATE TABLE "carts"' in system.ok("db", "migrate", "orders", "--dry-run", timeout_s=180)
    assert migrated(system) == {"sales.0002_carts": 4}
    assert system.ok("db", "migrate", "orders", timeout_s=180).startswith("nothing to apply")  # and no table is missed
    system.ok("db", "move", "orders", "0", "--to", "s2", timeout_s=120)
    system.ok("db", "split", "orders", timeout_s=180)
    assert "nothing to apply: 8 shards" in system.ok("db", "migrate", "orders", timeout_s=180)
    models.write_text(
        models.read_text().replace("customer = models", 'note = models.TextField(default="")\n    customer = models', 1)
    )
    manage(system.folder, "makemigrations", "sales", "-v0", "-n", "note")
    assert migrated(system) == {"sales.0003_note": 8}
    for customer in range(10):
        assert len(httpx.get(f"{system.url}/{customer}", timeout=30).json()) == 1
    assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1])["complete"]


def test_a_table_whose_migration_was_applied_too_early_is_told(system):
    models = system.folder / "sales" / "models.py"
    models.write_text(models.read_text() + CART.replace("Cart", "Gift").replace("carts", "gifts"))
    manage(system.folder, "makemigrations", "sales", "-v0", "-n", "gifts")
    assert "makes no table gifts in shards: it is not under keys" in system.ok("db", "migrate", "orders", timeout_s=180)
    toml = system.folder / "headway.toml"
    before = toml.read_text()
    toml.write_text(before.replace('carts = "customer"', 'carts = "customer", gifts = "customer"'))
    system.ok("up", "--detach", timeout_s=180)
    failed = system.run("db", "migrate", "orders", timeout_s=180)
    assert failed.returncode == 1
    told = "error: databases.orders.keys.gifts: all migrations are applied to the shards, and none has made table gifts"
    assert told in failed.stderr
    toml.write_text(before)
    system.ok("up", "--detach", timeout_s=180)
    assert system.ok("db", "migrate", "orders", timeout_s=180).startswith("nothing to apply")


def test_what_goes_wrong_is_said_and_the_app_goes_on(system):
    folder = system.folder / "sales" / "migrations"
    last = max(path.stem for path in folder.glob("0*.py"))
    file = folder / "0009_nix.py"
    file.write_text(
        "from django.db import migrations\nclass Migration(migrations.Migration):\n"
        f"    dependencies = [('sales', {last!r})]\n    operations = [migrations.RunSQL('DROP TABLE nix')]\n"
    )
    failed = system.run("db", "migrate", "orders", timeout_s=180)
    assert failed.returncode == 1
    told = r"error: shard 0 on server s[12]: sales\.0009_nix: table \"nix\" does not exist"
    told += r" \([48] shards refused it, 0 have it\)"
    assert re.search(told, failed.stderr)
    assert "hint: Correct the migration. Then run the same command again." in failed.stderr
    assert "Traceback" not in failed.stderr
    file.unlink()
    assert httpx.get(f"{system.url}/4", timeout=30).status_code == 200
