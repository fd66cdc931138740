"""The app's role on a server by URL: everybody who is given the same URL comes to the same one."""

from __future__ import annotations

from headway.sharding.app_role import app_role

URL = "postgresql://keeper:secret@a.example/shop"


def test_the_role_follows_from_the_url_alone():
    found = app_role("shop", "orders", URL)
    assert found is not None
    assert found.name == "shop_orders"
    assert found == app_role("shop", "orders", "postgresql://keeper:secret@another.example:6000/other")
    assert "secret" not in found.password
    assert len(found.password) == 32
    assert found.password not in repr(found)


def test_another_database_or_password_gives_another_one():
    passwords = {
        found.password
        for system, database, url in (
            ("shop", "orders", URL),
            ("shop", "carts", URL),
            ("site", "orders", URL),
            ("shop", "orders", URL.replace("secret", "other")),
        )
        if (found := app_role(system, database, url))
    }
    assert len(passwords) == 4


def test_without_a_password_there_is_none():
    assert app_role("shop", "orders", "postgresql://keeper@a.example/shop") is None


def test_a_name_is_one_that_postgresql_takes():
    found = app_role("pg_" + "s" * 28, "d" * 31, URL)
    assert found is not None
    assert found.name.startswith("app_pg_sss")
    assert len(found.name) == 63
