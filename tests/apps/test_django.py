"""A Django site with its admin, as its visitors and its owner use it."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

OWNER = {"username": "owner", "password": "a-long-enough-password"}
FILE_BYTES = 5 * 2**20


@pytest.fixture(scope="module")
def site(serve: Callable[..., Any], example: Callable[[str], Path]) -> Any:
    folder = example("django_site")
    served = serve(folder, (folder / "headway.toml").read_text())
    served.run(sys.executable, "manage.py", "migrate", "--no-input", "-v", "0")
    served.run(sys.executable, "manage.py", "collectstatic", "--no-input", "-v", "0")
    owner = {"DJANGO_SUPERUSER_PASSWORD": OWNER["password"]}
    served.run(
        *(sys.executable, "manage.py", "createsuperuser", "--no-input"),
        *("--username", OWNER["username"], "--email", "owner@example.com"),
        env=owner,
    )
    return served


@pytest.fixture
def visitor(site: Any) -> Iterator[httpx.Client]:
    with site.client() as client:
        yield client


@pytest.fixture
def owner(site: Any) -> Iterator[httpx.Client]:
    with site.client() as client:
        answer = submit(client, "/admin/login/?next=/admin/", **OWNER)
        assert answer.status_code == 302
        yield client


def submit(client: httpx.Client, address: str, files: Any = None, **values: str) -> httpx.Response:
    """Open the page, fill in its form and send it, with the headers that a browser sends along."""
    page = client.get(address)
    assert page.status_code == 200, page.text
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
    origin = str(client.base_url).rstrip("/")
    return client.post(
        address,
        data={"csrfmiddlewaretoken": token, **values},
        files=files,
        headers={"origin": origin, "referer": origin + address},
    )


def sign(client: httpx.Client, name: str, message: str, **options: Any) -> str:
    """Leave an entry; returns the address of its page."""
    answer = submit(client, "/", name=name, message=message, **options)
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


def test_signing_leads_to_the_public_address_of_the_entry(visitor: httpx.Client, site: Any) -> None:
    address = sign(visitor, "Ada", "Zwölf Boxkämpfer, 12 € & <b>")
    assert re.fullmatch(re.escape(site.base_url) + r"/entries/\d+/", address)
    page = visitor.get(address)
    assert "Zwölf Boxkämpfer, 12 € &amp; &lt;b&gt;" in page.text
    assert "Thank you, Ada." in page.text  # the message waited in the session
    assert f'id="address" href="{address}"' in page.text
    assert "Thank you" not in visitor.get(address).text


def test_a_session_lasts_and_belongs_to_one_visitor(visitor: httpx.Client, site: Any) -> None:
    sign(visitor, "Grace", "I was here")
    visits = [int(re.search(r"Visit number (\d+)", visitor.get("/").text)[1]) for _ in range(3)]
    assert visits == [2, 3, 4]
    assert 'value="Grace"' in visitor.get("/").text
    with site.client() as stranger:
        page = stranger.get("/").text
        assert "Visit number 1." in page
        assert 'value="Grace"' not in page


def test_forms_of_others_are_refused(visitor: httpx.Client, site: Any) -> None:
    values = {"name": "Mallory", "message": "not from your page"}
    assert visitor.post("/", data=values).status_code == 403
    page = visitor.get("/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
    signed = {"csrfmiddlewaretoken": token, **values}
    assert visitor.post("/", data=signed, headers={"origin": "https://evil.example"}).status_code == 403
    assert visitor.post("/", data=signed, headers={"origin": site.base_url}).status_code == 302


def test_what_is_wrong_in_a_form_is_said(visitor: httpx.Client) -> None:
    answer = submit(visitor, "/", name="", message="x")
    assert answer.status_code == 422
    assert "This field is required." in answer.text


def test_an_upload_comes_back_byte_for_byte(visitor: httpx.Client) -> None:
    content = b"".join(
        hashlib.sha256(bytes([n % 256, n // 256 % 256, n // 65536])).digest() for n in range(FILE_BYTES // 32)
    )
    address = sign(visitor, "Linus", "see file", files={"attachment": ("täglich 1.bin", content)})
    assert "Attachment" in visitor.get(address).text
    with visitor.stream("GET", address + "attachment") as download:
        assert download.headers["content-type"] == "application/octet-stream"
        assert download.headers["content-disposition"].startswith("attachment; filename")
        assert int(download.headers["content-length"]) == FILE_BYTES
        assert download.read() == content


def test_an_upload_that_is_too_large_is_refused_by_the_app(visitor: httpx.Client) -> None:
    answer = submit(visitor, "/", name="Big", message="x", files={"attachment": ("big.bin", bytes(21 * 2**20))})
    assert answer.status_code == 422
    assert "20 MiB at most" in answer.text


def test_many_visitors_sign_at_the_same_time(site: Any) -> None:
    def visit(number: int) -> str:
        with site.client() as client:
            return sign(client, f"Visitor {number}", "together")

    with ThreadPoolExecutor(8) as pool:
        addresses = list(pool.map(visit, range(24)))
    assert len(set(addresses)) == 24


def test_the_export_is_streamed_and_complete(visitor: httpx.Client, site: Any) -> None:
    make = (
        "from guestbook.models import Entry;"
        "Entry.objects.bulk_create([Entry(name=f'Bulk {n}', message='m' * 500) for n in range(3000)])"
    )
    site.run(sys.executable, "manage.py", "shell", "-v", "0", "-c", make)
    with visitor.stream("GET", "/export.csv") as answer:
        assert answer.headers["content-type"] == "text/csv"
        assert "content-length" not in answer.headers
        rows = list(csv.DictReader(io.StringIO(answer.read().decode())))
    assert [row["name"] for row in rows if row["name"].startswith("Bulk")] == [f"Bulk {n}" for n in range(3000)]
    assert all(len(row["message"]) == 500 for row in rows[-3000:])


def test_the_admin_is_closed_to_strangers(visitor: httpx.Client) -> None:
    answer = visitor.get("/admin/guestbook/entry/")
    assert answer.status_code == 302
    assert answer.headers["location"] == "/admin/login/?next=/admin/guestbook/entry/"
    wrong = submit(visitor, "/admin/login/", username="owner", password="guess")
    assert wrong.status_code == 200
    assert "Please enter the correct username" in wrong.text


def test_the_owner_adds_changes_finds_and_deletes(owner: httpx.Client, visitor: httpx.Client) -> None:
    entries = "/admin/guestbook/entry/"
    assert "Site administration" in owner.get("/admin/").text
    added = submit(owner, entries + "add/", name="Edsger", message="considered harmful", shown="on", _save="Save")
    assert (added.status_code, added.headers["location"]) == (302, entries)
    listed = owner.get(entries, params={"q": "considered"})
    number = re.search(r"/admin/guestbook/entry/(\d+)/change/", listed.text)[1]
    assert "was added successfully" in listed.text
    assert visitor.get(f"/entries/{number}/").status_code == 200

    change = f"{entries}{number}/change/"
    assert submit(owner, change, name="Edsger D.", message="hidden now", _save="Save").status_code == 302
    assert visitor.get(f"/entries/{number}/").status_code == 404
    assert "hidden now" in owner.get(entries, params={"shown__exact": "0"}).text

    deleted = submit(owner, f"{entries}{number}/delete/", post="yes")
    assert deleted.status_code == 302
    assert owner.get(change).status_code == 302
    assert "Perhaps it was deleted?" in owner.get("/admin/").text


def test_the_owner_uploads_through_the_admin(owner: httpx.Client, visitor: httpx.Client) -> None:
    files = {"attachment": ("note.txt", b"from the admin")}
    submit(owner, "/admin/guestbook/entry/add/", name="Owner", message="with file", shown="on", files=files)
    listed = owner.get("/admin/guestbook/entry/", params={"q": "with file"}).text
    number = re.search(r"/admin/guestbook/entry/(\d+)/change/", listed)[1]
    assert visitor.get(f"/entries/{number}/attachment").content == b"from the admin"


def test_logging_out_ends_the_session_on_the_server(owner: httpx.Client, site: Any) -> None:
    kept = owner.cookies["sessionid"]
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', owner.get("/admin/").text)[1]
    assert "Logged out" in owner.post("/admin/logout/", data={"csrfmiddlewaretoken": token}).text
    with site.client(cookies={"sessionid": kept}) as thief:
        assert thief.get("/admin/").status_code == 302


def test_static_files_of_the_admin_come_without_the_app(visitor: httpx.Client) -> None:
    for path, kind in (
        ("css/base.css", "text/css"),
        ("js/core.js", "javascript"),
        ("img/icon-yes.svg", "image/svg+xml"),
    ):
        answer = visitor.get(f"/static/admin/{path}")
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
        assert answer.content
    linked = re.findall(r'(?:href|src)="(/static/[^"]+)"', visitor.get("/admin/login/").text)
    assert len(linked) >= 4
    assert {visitor.get(address).status_code for address in linked} == {200}


def test_redirects_methods_and_unknown_pages(visitor: httpx.Client) -> None:
    assert (visitor.get("/admin").status_code, visitor.get("/admin").headers["location"]) == (301, "/admin/")
    assert visitor.get("/entries/4711471/").status_code == 404
    assert visitor.options("/").status_code == 405
    head = visitor.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/html")


def test_a_host_that_is_not_ours_is_refused_by_the_app(visitor: httpx.Client) -> None:
    assert visitor.get("/", headers={"host": "evil.example"}).status_code == 400
