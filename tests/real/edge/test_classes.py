"""Classes of requests: each has a queue and limits of its own over the same replicas, found by declared or learned
routes, and all of it outlives HAProxy."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
from edge_site import Site, until
from queue_clients import Clients

from headway.edge.routes import learned_key
from headway.edge.servers import learned_file
from headway.model.edge import EdgeClass, EdgeService
from headway.model.overload import SLOW, QueueBound

pytestmark = pytest.mark.alone

LONG_S = 60.0


def with_classes(site: Site, **settings: object) -> EdgeService:
    """A service with a class for slow routes, which has no replicas yet, and one for /hold/at."""
    web = site.service("web", limit=1, **{"deadline_s": LONG_S, **settings})  # type: ignore[arg-type]
    at = EdgeClass(2, ("/hold/at",), web.replicas, 20.0)
    return replace(web, classes=(EdgeClass(SLOW, (), (), LONG_S), at))


def test_a_fast_route_passes_a_slow_class_that_is_full() -> None:
    with Site() as site:
        site.start(site.plan(with_classes(site)))
        with Clients(site, 2) as slow:
            slow.occupy(path="/hold/at/first")
            slow.wait("second", "/hold/at/")
            answer = slow.ask("/fast")
            assert (answer.status, answer.came_from[3:5]) == (200, ["-", "0"])
            site.release()
            assert slow.ask("/hold/at").came_from[4] == "2"
            assert slow.ask("/hold/at?page=2").came_from[4] == "2"
            assert slow.ask("/hold/attic").came_from[4] == "0"


# To an app each of these lies below /hold/at, or below /reports; the others do not.
@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/%68old/%61t", "2"),
        ("/hold%2Fat%2F7?x=%zz", "2"),
        ("/h%6fld/at/%zz", "2"),
        ("/%68old/at/100%", "2"),
        ("/%68old/at/%4", "2"),
        ("/%68old/at/%%%4x%00", "2"),
        ("/%72eports/7", "1"),
        ("/%72eports/%", "1"),
        ("/hold%2Fattic", "0"),
        ("/%2568old/at", "0"),
        ("/hold/a%74tic", "0"),
    ],
)
def test_a_path_is_classified_as_the_app_reads_it_and_sent_on_as_it_came(path: str, number: str) -> None:
    with Site() as site:
        site.release()
        site.start(site.plan(with_classes(site)))
        site.api.add("web.slow", site.replica("web.9"))
        site.api.assign("web", "/reports")
        with Clients(site) as clients:
            assert clients.ask(path).came_from[4] == number
        assert site.recorded()[-1]["target"] == path


def test_a_route_is_found_in_any_spelling_of_the_path_and_of_the_declaration() -> None:
    with Site() as site:
        api = site.service("api", routes=("/api", "/caf%C3%A9", "shop.example/v2"))
        site.start(site.plan(site.service("web"), api))
        with Clients(site) as clients:
            for path in ("/api", "/%61pi/x", "/api%2Fx", "/caf%c3%a9/7", "/c%61f%C3%A9"):
                assert clients.ask(path).replica == "api.1", path
            assert clients.ask("/%762/x", host="shop.example").replica == "api.1"
            assert clients.ask("/%2561pi").replica == "web.1"


def test_each_class_has_its_own_deadline_and_says_what_stays_open() -> None:
    with Site() as site:
        site.release()
        site.start(site.plan(with_classes(site)))
        with Clients(site) as clients:
            main, at = clients.ask("/").came_from, clients.ask("/hold/at", accept="text/event-stream").came_from
            assert (main[3], at[3]) == ("-", "stream")
            assert 35_000 < int(main[5]) - int(at[5]) < 45_000


def test_the_most_specific_prefix_decides_and_only_within_the_services_own_routes() -> None:
    with Site() as site:
        web = site.service("web", routes=("/shop", "shop.example"))
        api = site.service("api", routes=("/",))
        classes = (EdgeClass(2, ("/shop/a",), web.replicas, 9.0), EdgeClass(3, ("/shop/a/b",), web.replicas, 9.0))
        site.start(site.plan(replace(web, classes=classes), api))
        with Clients(site) as clients:
            for path, number in (("/shop/a/x", "2"), ("/shop/a/b", "3"), ("/shop/a/bc", "2"), ("/shop/x", "0")):
                answer = clients.ask(path)
                assert (answer.replica, answer.came_from[4]) == ("web.1", number)
            assert clients.ask("/shop/a/b/c", host="shop.example").came_from[4] == "3"
            assert clients.ask("/a").replica == "api.1"


def test_a_learned_route_changes_its_class_without_a_reload_and_is_still_learned_after_a_restart() -> None:
    with Site() as site:
        site.release()
        web = with_classes(site)
        process = site.start(site.plan(web))
        slow = replace(web.replicas[0], limit=3)
        with Clients(site) as clients:
            assert clients.ask("/reports").came_from[4] == "0"
            site.api.add("web.slow", slow)
            site.api.assign("web", "/reports")
            site.api.assign("web", "/reports")
            for path, number in (
                ("/reports", "1"),
                ("/reports/7", "1"),
                ("/reports2", "0"),
                ("/", "0"),
                ("/x/reports", "0"),
            ):
                assert clients.ask(path).came_from[4] == number, path
            assert site.api.replicas("web.slow")[0].limit == 3

            Path(learned_file(str(site.folder), "web")).write_text(f"# learned\n{learned_key('/reports')}\n")
            classes = (replace(web.classes[0], replicas=(slow,)), *web.classes[1:])
            process.send_signal(signal.SIGKILL)
            process.wait()
            site.start(site.plan(replace(web, classes=classes), listeners=(site.again(),)))
            assert clients.ask("/reports/7").came_from[4] == "1"
            site.api.unassign("web", "/reports")
            assert clients.ask("/reports/7").came_from[4] == "0"


def test_a_learned_root_is_the_root_alone_and_odd_characters_mean_nothing() -> None:
    with Site() as site:
        site.start(site.plan(with_classes(site)))
        site.api.add("web.slow", site.replica("web.9"))
        with Clients(site) as clients:
            site.api.assign("web", "/")
            assert (clients.ask("/").came_from[4], clients.ask("/other").came_from[4]) == ("1", "0")
            for prefix in ("/a b", "/c;d", "/größe", "/e'f", "/g\nh"):
                site.api.assign("web", prefix)
            assert clients.ask("/a%20b/1").came_from[4] == "1"
            assert clients.ask("/gr%C3%B6%C3%9Fe").came_from[4] == "1"
            assert clients.ask("/a").came_from[4] == "0"


def test_bounds_and_limits_are_kept_by_a_restart_and_by_a_reload() -> None:
    with Site() as site:
        web = with_classes(site)
        process = site.start(site.plan(web))
        bound = QueueBound(1)
        site.api.bound("web", 2, bound)
        held = replace(web, classes=(web.classes[0], replace(web.classes[1], bound=bound)))
        for how in ("restart", "reload"):
            plan = site.plan(held, listeners=(site.again(),))
            if how == "restart":
                process.send_signal(signal.SIGKILL)
                process.wait()
                process = site.start(plan)
            else:
                process = site.start(plan, replaces_pid=process.pid)
            with Clients(site, 2) as clients:
                clients.occupy(path="/hold/at/first")
                clients.wait("second", "/hold/at/")
                assert clients.ask("/hold/at/third").status == 503, how
            Path(f"{site.record}.release").unlink()


def test_a_client_stays_on_its_replica_in_every_class() -> None:
    with Site() as site:
        site.release()
        web = site.service("web", 3, sticky=True)
        at = EdgeClass(2, ("/hold/at",), web.replicas, 9.0)
        site.start(site.plan(replace(web, classes=(at,))))
        with Clients(site) as clients:
            for _ in range(6):
                first = clients.ask("/")
                cookie = first.headers["set-cookie"].partition(";")[0]
                assert [clients.ask("/hold/at", cookie=cookie).replica for _ in range(3)] == [first.replica] * 3


def test_a_replica_leaves_every_class_at_once() -> None:
    with Site() as site:
        site.start(site.plan(with_classes(site)))
        api, every = site.api, ("web.slow", "web.at1")
        extra = site.replica("web.2")
        for backend in ("web", "web.at1"):
            api.add(backend, extra)
        api.drain("web", "web.2", every)
        states = [state for state in api.observe().replicas if state.name == "web.2"]
        assert [(state.number, state.admin) for state in states] == [(0, "drain"), (2, "drain")]
        api.enable("web.at1", "web.2")
        api.maint("web", "web.2", every)
        assert {state.admin for state in api.observe().replicas if state.name == "web.2"} == {"maint"}
        site.origins["web.2"].terminate()
        until(lambda: api.remove("web", "web.2", every) == "removed", "it is removed")
        assert [state.name for state in api.observe().replicas] == ["web.1", "web.1"]
        assert api.remove("web", "web.2", every) == "absent"
