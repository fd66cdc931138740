"""Services that call each other: who calls whom, who is at the edge for it, and what a change of it costs."""

from __future__ import annotations

import pytest

from headway.declaration.calls import at_edge, by_url, called_by, callers
from headway.declaration.changes import changes
from headway.errors import DeclarationError
from headway.process.folders import folders_for
from headway.runtimes.local.call_places import CallPlaces

CHAIN = """
    [services.web]
    app = "web:app"
    routes = ["/"]
    uses = ["stock"]
    [services.stock]
    app = "stock:app"
    env = { PRICES = "{prices.url}/v1" }
    [services.prices]
    app = "prices:app"
    [services.alone]
    app = "alone:app"
    [services.mailer]
    command = ["python", "mailer.py"]
    uses = ["prices"]
"""


def system(folder, toml=CHAIN):
    for module in ("web", "stock", "prices", "alone"):
        folder.write(f"{module}.py", "app = None")
    return folder.load(toml).system


def test_whom_a_service_calls_is_said_by_uses_and_by_its_environment(folder) -> None:
    found = system(folder)
    assert callers(found) == {"stock": ("web",), "prices": ("stock", "mailer")}
    assert found.services["stock"].uses == ("prices",)  # its environment speaks of it
    assert (called_by(found, "stock"), called_by(found, "prices")) == (("prices",), ())
    assert by_url(found) == ("prices",)
    assert at_edge(found) == {"web", "stock", "prices"}


def test_a_circle_is_no_mistake(folder) -> None:
    found = system(folder, CHAIN.replace('app = "prices:app"', 'app = "prices:app"\n    uses = ["web", "stock"]'))
    assert callers(found) == {"web": ("prices",), "stock": ("web", "prices"), "prices": ("stock", "mailer")}


def test_routes_of_a_called_service_may_differ(folder) -> None:
    found = system(folder, CHAIN + '    [services.stock.at."/reports"]\n    deadline = "60s"\n')
    assert found.services["stock"].at["/reports"].deadline_s == 60.0


def test_only_a_service_that_nothing_reaches_is_warned_of(folder) -> None:
    system(folder)
    warned = [warning.path for warning in folder.load(CHAIN).warnings]
    assert warned == ["services.alone.routes"]


def _changed(before, after):
    return [(change.sentence, change.edge_reload, change.replaces) for change in changes(before, after)]


def test_a_new_way_reloads_the_edge_and_replaces_who_is_told_of_it(folder) -> None:
    before = system(folder)
    after = system(folder, CHAIN.replace('"/"]\n    uses = ["stock"]', '"/"]\n    uses = ["stock", "alone"]'))
    both = "its replicas are replaced one by one, and the edge reloads"
    assert _changed(before, after) == [(f"services.web.uses: calls alone; {both}", True, ("web",))]
    assert _changed(after, before) == [(f"services.web.uses: calls alone no more; {both}", True, ("web",))]


def test_a_known_way_is_only_told(folder) -> None:
    before = system(folder)
    after = system(folder, CHAIN.replace('"/"]\n    uses = ["stock"]', '"/"]\n    uses = ["stock", "prices"]'))
    told = "services.web.uses: calls prices; its replicas are replaced one by one"
    assert _changed(before, after) == [(told, False, ("web",))]


def test_another_deadline_is_told_to_those_who_call(folder) -> None:
    before = system(folder)
    after = system(folder, CHAIN.replace('"stock:app"', '"stock:app"\n    deadline = "5s"'))
    found = changes(before, after)
    assert [(change.path, change.edge_reload, change.replaces) for change in found] == [
        ("services.web.uses", False, ("web",)),
        ("services.stock.deadline", True, ()),
    ]


def test_a_called_service_comes_and_goes_by_a_reload(folder) -> None:
    before = system(folder)
    others = {
        name: service.model_copy(update={"uses": (), "env": {}})
        for name, service in before.services.items()
        if name not in ("prices", "alone")
    }
    after = before.model_copy(update={"services": others})
    gone = {change.path: change.edge_reload for change in changes(before, after) if change.kind == "removed"}
    assert gone == {"services.prices": True, "services.alone": False}
    come = {change.path: change.edge_reload for change in changes(after, before) if change.kind == "added"}
    assert come == gone


def test_how_many_calls_may_be_under_way_is_told_to_those_who_call(folder, tmp_path) -> None:
    usual, few = system(folder), system(folder, CHAIN.replace('app = "web:app"', 'app = "web:app"\n    calls_max = 8'))
    places = CallPlaces(folders_for(tmp_path / "state"))
    assert "calls_max" not in places.told(usual, "web")["stock"]
    assert places.told(few, "web")["stock"]["calls_max"] == 8
    assert "calls_max" not in places.told(few, "mailer")["prices"]
    replaced = "services.web.calls_max: 256 → 8; its replicas are replaced one by one"
    assert _changed(usual, few) == [(replaced, False, ("web",))]
    alone = system(folder, CHAIN.replace('app = "alone:app"', 'app = "alone:app"\n    calls_max = 8'))
    assert _changed(usual, alone) == [("services.alone.calls_max: 256 → 8; applies at once", False, ())]


@pytest.mark.parametrize("value", ["0", "5000", '"many"'])
def test_how_many_calls_may_be_under_way_is_bounded(folder, value: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        system(folder, CHAIN.replace('app = "web:app"', f'app = "web:app"\n    calls_max = {value}'))
    assert [problem.path for problem in refused.value.problems] == ["services.web.calls_max"]


def test_a_number_of_calls_that_changes_nothing_is_warned_of(folder) -> None:
    declared = CHAIN.replace('app = "web:app"', 'app = "web:app"\n    calls_max = 8\n    threads = 8')
    declared = declared.replace('app = "alone:app"', 'app = "alone:app"\n    routes = ["/alone"]\n    calls_max = 8')
    system(folder, declared)
    warned = {warning.path: warning.message for warning in folder.load(declared).warnings}
    assert warned == {
        "services.web.calls_max": "is above half of its 8 threads, and no more of them wait for one service",
        "services.alone.calls_max": "changes nothing: it calls no service",
    }
