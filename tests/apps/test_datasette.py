"""Datasette, an ASGI app from PyPI: its pages, JSON, CSV and cookies over a small database of known rows."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

DECLARATION = """
[system]
name = "datasette"

[services.web]
app = "browse:app"
"""

APP = """
from datasette.app import Datasette
app = Datasette(
    immutables=["birds.db"], secret="not so secret", settings={"default_page_size": 50, "max_csv_mb": 0,
    # of what takes milliseconds, where the machine is busy
    "sql_time_limit_ms": 5000, "facet_time_limit_ms": 5000}
).app()
"""

KINDS = ("wader", "gull", "duck", "owl")
# (id, name, kind, wingspan in cm); one sighting in ten is by no one
BIRDS = [(n, f"Bird {n:04}", KINDS[n % 4], 20 + n * 7 % 180) for n in range(1, 1201)]
SIGHTINGS = [(n, n % 1200 + 1, f"Küste {n % 7}", None if n % 10 == 0 else f"watcher{n % 3}") for n in range(1, 5001)]


@pytest.fixture(scope="module")
def datasette(serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("datasette")
    (folder / "browse.py").write_text(APP)
    with closing(sqlite3.connect(folder / "birds.db")) as connection, connection:
        connection.executescript(
            "create table birds (id integer primary key, name text, kind text, wingspan integer);"
            "create table sightings ("
            "id integer primary key, bird_id integer references birds (id), place text, who text);"
            "create table [odd/name, with spaces] ([a b] text primary key);"
            "create view large_birds as select * from birds where wingspan > 150;"
        )
        connection.executemany("insert into birds values (?, ?, ?, ?)", BIRDS)
        connection.executemany("insert into sightings values (?, ?, ?, ?)", SIGHTINGS)
        connection.execute("insert into [odd/name, with spaces] values ('x/y')")
    return serve(folder, DECLARATION)


@pytest.fixture
def client(datasette: Any) -> Iterator[httpx.Client]:
    with datasette.client() as client:
        yield client


def rows(client: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    return client.get(path, params={"_shape": "array", **query}).json()


def test_pages_for_people(client: httpx.Client) -> None:
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert 'href="/birds"' in index.text
    database = client.get("/birds").text
    assert all(name in database for name in ("sightings", "large_birds", "1,200 rows", "5,000 rows"))
    table = client.get("/birds/birds").text
    assert len(re.findall(r'<td class="col-name type-str">', table)) == 50
    assert "Bird 0007" in client.get("/birds/birds/7").text
    assert client.head("/birds/birds").content == b""


def test_paging_by_links_reaches_every_row_once(client: httpx.Client, datasette: Any) -> None:
    address, seen = "/birds/birds.json?_size=250", []
    while address:
        page = client.get(address).json()
        seen += [tuple(row) for row in page["rows"]]
        address = page["next_url"]
        assert address is None or address.startswith(f"{datasette.base_url}/birds/birds.json?")
    assert seen == BIRDS


def test_json_sorting_filtering_and_search_in_values(client: httpx.Client) -> None:
    largest = rows(client, "/birds/birds.json", _sort_desc="wingspan", _size=5)
    assert [row["wingspan"] for row in largest] == sorted((bird[3] for bird in BIRDS), reverse=True)[:5]
    owls = rows(client, "/birds/birds.json", kind="owl", wingspan__gt=150, _size="max")
    assert [row["id"] for row in owls] == [bird[0] for bird in BIRDS if bird[2] == "owl" and bird[3] > 150]
    coast = client.get("/birds/sightings.json", params={"place__exact": "Küste 3"}).json()
    assert coast["filtered_table_rows_count"] == sum(row[2] == "Küste 3" for row in SIGHTINGS)
    assert len(rows(client, "/birds/large_birds.json", _size="max")) == sum(bird[3] > 150 for bird in BIRDS)


def test_facets_count_as_the_rows_do(client: httpx.Client) -> None:
    faceted = client.get("/birds/birds.json", params={"_facet": "kind", "_size": 0}).json()
    results = faceted["facet_results"]
    results = results.get("results", results)["kind"]["results"]
    assert {facet["value"]: facet["count"] for facet in results} == dict.fromkeys(KINDS, 300)
    narrowed = client.get(results[0]["toggle_url"]).json()
    assert narrowed["filtered_table_rows_count"] == 300


def test_foreign_keys_are_links(client: httpx.Client) -> None:
    page = client.get("/birds/sightings?_size=1").text
    assert '<a href="/birds/birds/2">Bird 0002</a>' in page
    expanded = rows(client, "/birds/sightings.json", _labels="on", _size=1)
    assert expanded[0]["bird_id"] == {"value": 2, "label": "Bird 0002"}


def test_csv_streams_every_row(client: httpx.Client) -> None:
    with client.stream("GET", "/birds/sightings.csv?_stream=on&_size=max") as answer:
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert "content-length" not in answer.headers
        text = answer.read().decode()
    expected = [tuple("" if value is None else str(value) for value in row) for row in SIGHTINGS]
    assert [tuple(row.values()) for row in csv.DictReader(io.StringIO(text))] == expected
    download = client.get("/birds/birds.csv?_dl=on&_size=3")
    assert download.headers["content-type"] == "text/csv; charset=utf-8"
    assert 'filename="birds.csv"' in download.headers["content-disposition"]
    assert len(download.text.splitlines()) == 4


def test_sql_with_parameters(client: httpx.Client) -> None:
    sql = "select kind, count(*) as n from birds where wingspan > :size and name like :name group by kind order by kind"
    expected: dict[str, int] = {}
    for _, name, kind, wingspan in BIRDS:
        if wingspan > 100 and "7" in name:
            expected[kind] = expected.get(kind, 0) + 1
    got = rows(client, "/birds.json", sql=sql, size="100", name="%7%")
    assert [(row["kind"], row["n"]) for row in got] == sorted(expected.items())
    page = client.get("/birds", params={"sql": sql, "size": "100", "name": "%7%"})
    assert f'<td class="col-n">{expected["duck"]}</td>' in page.text


def test_what_a_reader_may_not_do_is_refused(client: httpx.Client) -> None:
    for sql in ("delete from birds", "select * from nothing", "select 1; select 2"):
        answer = client.get("/birds.json", params={"sql": sql})
        assert answer.status_code == 400
        assert answer.json()["ok"] is False
    assert client.get("/birds/birds.json?_size=0").json()["filtered_table_rows_count"] == 1200


def test_a_query_that_takes_too_long_is_interrupted_by_the_app(client: httpx.Client) -> None:
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select sum(x) from n"
    answer = client.get("/birds.json", params={"sql": endless})
    assert answer.status_code == 400
    assert "SQL" in answer.json()["title"]


def test_names_with_slashes_and_spaces_survive(client: httpx.Client) -> None:
    link = re.search(r'<a href="(/birds/odd[^"]+)">odd/name, with spaces</a>', client.get("/birds").text)[1]
    table = client.get(link).text
    row = re.search(rf'href="({re.escape(link)}/[^"]+)"', table)[1]
    assert "x/y" in client.get(row).text


def test_redirects_and_missing_pages(client: httpx.Client) -> None:
    for path, target in (("/birds/", "/birds"), ("/birds/birds/", "/birds/birds")):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (302, target)
    for path in ("/nothing", "/birds/nothing", "/birds/birds/4711", "/-/static/nothing.js"):
        assert client.get(path).status_code == 404
    assert client.get("/birds/birds/4711.json").json()["status"] == 404


def test_static_assets_have_their_types(client: httpx.Client) -> None:
    pages = client.get("/birds/birds").text + client.get("/birds?sql=select+1").text
    linked = set(re.findall(r'(?:href|src)="(/-/static/[^"]+)"', pages))
    assert len(linked) >= 3
    kinds = {"css": "text/css", "js": "javascript"}
    for address in linked:
        asset = client.get(address)
        assert asset.status_code == 200
        assert kinds[address.partition("?")[0].rpartition(".")[2]] in asset.headers["content-type"]
        assert len(asset.content) == int(asset.headers["content-length"])


def test_the_whole_database_can_be_downloaded(client: httpx.Client, datasette: Any, tmp_path: Path) -> None:
    answer = client.get("/birds.db")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content == (datasette.folder / "birds.db").read_bytes()
    (tmp_path / "copy.db").write_bytes(answer.content)
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("select count(*) from sightings").fetchone() == (5000,)


def test_cross_site_forms_are_refused_and_messages_wait_in_a_cookie(client: httpx.Client) -> None:
    page = client.get("/-/messages")
    assert client.post("/-/messages", data={"message": "x", "message_type": "INFO"}).status_code == 403
    token = re.search(r'name="csrftoken" value="([^"]+)"', page.text)[1]
    form = {"csrftoken": token, "message": "Drei Möwen gesehen", "message_type": "INFO"}
    answer = client.post("/-/messages", data=form)
    assert (answer.status_code, answer.headers["location"]) == (302, "/")
    assert "ds_messages" in client.cookies
    assert "Drei Möwen gesehen" in client.get("/").text
    assert "Drei Möwen gesehen" not in client.get("/").text


def test_permissions_of_a_stranger(client: httpx.Client) -> None:
    assert client.get("/-/actor.json").json() == {"actor": None}
    assert client.get("/-/permissions").status_code == 403
    assert client.get("/-/versions.json").json()["asgi"].startswith("3")


def test_cross_origin_and_caching_headers_pass(client: httpx.Client) -> None:
    answer = client.get("/birds/birds.json?_size=1")
    assert "max-age" in answer.headers["cache-control"]
    assert client.get("/birds/birds.json?_ttl=60&_size=1").headers["cache-control"] == "max-age=60"


def test_many_readers_at_once_see_the_same(datasette: Any) -> None:
    def read(number: int) -> int:
        with datasette.client() as client:
            return rows(client, "/birds/birds.json", id=number % 1200 + 1)[0]["id"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(64))) == [n % 1200 + 1 for n in range(64)]
