"""What waits at the edge, in which order, and what is refused at once: bounds, criticality, fairness."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace

import pytest
from edge_site import Site, until
from queue_clients import Asking, Clients

from headway.model.edge import EdgeClass
from headway.model.overload import MAIN, SLOW, QueueBound

pytestmark = pytest.mark.alone

LONG_S = 60.0


@pytest.mark.parametrize(
    ("level", "queue_max", "may_wait"),
    [(0, 4, 8), (1, 4, 4), (2, 4, 3), (3, 4, 2), (0, 1, 2), (1, 1, 1), (2, 1, 1), (3, 1, 1), (1, 0, 1), (3, 0, 1)],
)
def test_a_queue_at_its_bound_refuses_at_once_and_by_level(level: int, queue_max: int, may_wait: int) -> None:
    with Site() as site:
        web = site.service(limit=1, level=level, deadline_s=LONG_S, bound=QueueBound(queue_max))
        site.start(site.plan(web))
        with Clients(site) as clients:
            asked = clients.occupy()
            asked += [clients.wait(f"{number}") for number in range(may_wait)]
            refused = clients.ask("/hold/too-many")
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert refused.headers["content-type"] == "text/plain"
            assert clients.queue.refused == 1
            site.release()
            assert [answer.result().status for answer in asked] == [200] * (may_wait + 1)
            assert clients.ask("/after").status == 200
            assert clients.queue.refused == 1


def test_a_bound_of_zero_lets_requests_through_while_places_are_free() -> None:
    with Site() as site:
        site.start(site.plan(site.service(count=2, limit=2, deadline_s=LONG_S, bound=QueueBound(0))))
        with Clients(site) as clients:
            for taken in range(1, 5):
                clients.begin(f"/hold/{taken}")
                until(lambda taken=taken: clients.queue.in_flight == taken, f"{taken} are in flight")
            assert clients.queue.refused == 0


def test_a_bound_is_set_at_run_time_for_one_class_alone() -> None:
    with Site() as site:
        web = site.service(limit=1, deadline_s=LONG_S)
        at = EdgeClass(2, ("/hold/at",), web.replicas, LONG_S)
        site.start(site.plan(replace(web, classes=(EdgeClass(SLOW, (), (), LONG_S), at))))
        site.api.bound("web", 2, QueueBound(1))
        with Clients(site) as clients, Clients(site, 2) as others:
            clients.occupy()
            clients.wait("one")
            clients.wait("two")
            others.occupy(path="/hold/at/first")
            others.wait("one", "/hold/at/")
            assert others.ask("/hold/at/two").status == 503
            site.api.bound("web", 2, QueueBound(2))
            others.wait("two", "/hold/at/")
            assert (clients.queue.refused, others.queue.refused) == (0, 1)


def test_observing_refuses_nothing_and_keeps_everybody_in_order() -> None:
    with Site() as site:
        bound = QueueBound(2, overloaded=True, newest_first=True, floor_per_s=100, client_per_s=1)
        site.start(site.plan(site.service(limit=1, deadline_s=LONG_S, bound=bound, refuses=False)))
        with Clients(site) as clients:
            asked = clients.occupy()
            names = ("a", "b", "c", "d", "e")
            asked += [clients.wait(name, priority=f"u={7 - at}") for at, name in enumerate(names)]
            assert clients.order() == list(names)
            assert {answer.result().status for answer in asked} == {200}


def test_who_is_more_critical_goes_first() -> None:
    with Site() as site:
        site.start(site.plan(site.service(limit=1, deadline_s=LONG_S)))
        with Clients(site) as clients:
            clients.occupy()
            clients.wait("last", priority="i, u=6")
            clients.wait("later", priority="u=4")
            clients.wait("first")
            clients.wait("second", priority="u=3, i")
            assert clients.order() == ["first", "second", "later", "last"]


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_client_can_make_its_request_less_critical_never_more(level: int) -> None:
    with Site() as site:
        site.start(site.plan(site.service(limit=1, level=level, deadline_s=LONG_S)))
        with Clients(site) as clients:
            clients.occupy()
            clients.wait("first")
            clients.wait("second", priority="u=0")
            clients.wait("third", priority="u=2")
            assert clients.order() == ["first", "second", "third"]


def test_a_demoted_request_is_refused_where_others_still_wait() -> None:
    with Site() as site:
        site.start(site.plan(site.service(limit=1, deadline_s=LONG_S, bound=QueueBound(4))))
        with Clients(site) as clients:
            clients.occupy()
            for number in (1, 2):
                clients.wait(f"{number}")
            assert clients.ask("/hold/x", priority="u=7").status == 503
            clients.wait("3", priority="u=5")
            assert clients.ask("/hold/x", priority="u=5").status == 503
            clients.wait("4")
            assert clients.ask("/hold/x").status == 503
            assert clients.queue.refused == 3


@pytest.mark.parametrize("level", [0, 1])
def test_some_of_the_less_critical_go_first_under_overload(level: int) -> None:
    floor, many = 5, 60
    with Site() as site:
        bound = QueueBound(1000, overloaded=True, floor_per_s=floor)
        site.start(site.plan(site.service(limit=1, level=level, deadline_s=LONG_S, bound=bound)))
        with Clients(site) as clients:
            clients.occupy()
            clients.wait("critical")
            asked = [clients.begin(f"/hold/{number}", priority="u=7") for number in range(many)]
            until(lambda: clients.queue.queued == many + 1, "all wait")
            before = clients.order().index("critical")
            assert all(answer.result().status == 200 for answer in asked)
        # As long as no more come than the floor promises, all of them go first; later a share of them.
        assert floor <= before < many


@pytest.mark.parametrize("level", [0, 1])
def test_the_floor_is_kept_where_the_critical_fill_the_queue(level: int) -> None:
    with Site() as site:
        bound = QueueBound(4, overloaded=True, floor_per_s=100)
        site.start(site.plan(site.service(limit=1, level=level, deadline_s=LONG_S, bound=bound)))
        with Clients(site) as clients:
            clients.occupy()
            for number in range(4 if level else 8):
                clients.wait(f"{number}")
            assert clients.ask("/hold/x").status == 503
            clients.wait("less", priority="u=7")
            assert clients.order()[0] == "less"


def test_without_a_floor_the_less_critical_wait_for_all_others() -> None:
    with Site() as site:
        bound = QueueBound(1000, overloaded=True)
        site.start(site.plan(site.service(limit=1, deadline_s=LONG_S, bound=bound)))
        with Clients(site) as clients:
            clients.occupy()
            for number in range(10):
                clients.wait(f"less-{number}", priority="u=7")
            clients.wait("critical")
            assert clients.order()[0] == "critical"


def test_the_newest_goes_first_when_it_is_told_so() -> None:
    with Site() as site:
        site.start(site.plan(site.service(limit=1, deadline_s=LONG_S)))
        site.api.bound("web", MAIN, QueueBound(100, newest_first=True))
        with Clients(site) as clients:
            clients.occupy()
            for name in ("a", "b", "c", "d"):
                clients.wait(name)
                at_s = time.monotonic()
                until(lambda at_s=at_s: time.monotonic() > at_s + 0.005, "the next is newer by HAProxy's clocks too")
            assert clients.order() == ["d", "c", "b", "a"]


def test_a_client_that_is_alone_may_fill_the_queue() -> None:
    with Site() as site:
        bound = QueueBound(12, overloaded=True, client_per_s=1)
        site.start(site.plan(site.service(limit=1, deadline_s=LONG_S, bound=bound)))
        with Clients(site) as clients:
            clients.occupy()
            for number in range(12):
                clients.wait(f"{number}")
            assert clients.queue.clients == 1
            assert clients.ask("/hold/x").status == 503


def test_nobody_is_worse_off_than_itself_after_a_pause_of_the_app() -> None:
    with Site() as site:
        bound = QueueBound(12, overloaded=True, client_per_s=1)
        site.start(site.plan(site.service(limit=1, deadline_s=LONG_S, bound=bound)))
        with Clients(site) as clients:
            clients.occupy()
            for number in range(12):
                clients.wait(f"{number}")
            at_s = time.monotonic()
            until(lambda: time.monotonic() > at_s + 2.1, "its rate is forgotten, for nothing was let in")
            for _ in range(5):
                assert clients.ask("/hold/x").status == 503
            site.api.bound("web", MAIN, replace(bound, queue_max=16))
            for number in range(12, 16):
                clients.wait(f"{number}")


def test_a_client_that_takes_more_than_its_share_is_held_back_once_another_is_worse_off() -> None:
    with Site() as site:
        site.start(site.plan(site.service(limit=1, deadline_s=LONG_S)))
        with Clients(site) as clients:
            clients.occupy()
            clients.wait("before", source="127.0.0.3")
            assert clients.queue.clients == 0  # nobody is watched without overload
            site.api.bound("web", MAIN, QueueBound(8, overloaded=True, client_per_s=2))
            for number in range(7):
                clients.wait(f"greedy-{number}")
            assert clients.ask("/hold/x", source="127.0.0.2").status == 503
            site.api.bound("web", MAIN, QueueBound(16, overloaded=True, client_per_s=2))
            assert clients.ask("/hold/x").status == 503
            clients.wait("modest", source="127.0.0.2")
            site.api.bound("web", MAIN, QueueBound(100, overloaded=True, client_per_s=2))
            clients.wait("greedy-last")
            clients.wait("modest-last", source="127.0.0.2")
            # An overload that is over is forgotten.
            site.api.bound("web", MAIN, QueueBound(16))
            site.api.bound("web", MAIN, QueueBound(16, overloaded=True, client_per_s=2))
            clients.wait("greedy-again")
            order = clients.order()
            assert order[-1] == "greedy-last"
            assert order.index("modest-last") < order.index("greedy-again") < order.index("greedy-last")


def test_who_is_refused_for_being_less_critical_is_not_worse_off() -> None:
    with Site() as site:
        bound = QueueBound(16, overloaded=True, client_per_s=2)
        site.start(site.plan(site.service(limit=1, deadline_s=LONG_S, bound=bound)))
        with Clients(site) as clients:
            clients.occupy()
            for number in range(10):
                clients.wait(f"{number}")
            assert clients.ask("/hold/x", source="127.0.0.2", priority="u=7").status == 503
            clients.wait("still")


PLACES, TAKES_MS = 4, 40  # a hundred a second


@pytest.mark.parametrize("others", [1, 3])
@pytest.mark.parametrize("queue_max", [2, 8])
def test_one_greedy_client_leaves_their_share_to_a_few_others(others: int, queue_max: int) -> None:
    with Site() as site:
        bound = QueueBound(queue_max, overloaded=True, client_per_s=PLACES * 1000 // TAKES_MS)
        site.start(site.plan(site.service(limit=PLACES, bound=bound)))
        asks = [Asking(site.port, f"127.0.0.{2 + number}", 0.05 * others) for number in range(others)]
        with ExitStack() as stack:
            greedy(site, stack)
            for asking in asks:
                stack.enter_context(asking)
            time.sleep(1.5)  # rates are of the last second
            before = [(asking.asked, asking.served) for asking in asks]
            time.sleep(4.0)
            asked = [asking.asked - was for asking, (was, _) in zip(asks, before, strict=True)]
            served = [asking.served - was for asking, (_, was) in zip(asks, before, strict=True)]
        print(f"of 400 places {served} to others, which asked for {asked}")
        # Without fairness a tenth to a quarter, as of the greedy one's.
        assert sum(served) >= 0.6 * sum(asked)
        assert min(served) >= 0.4 * sum(asked) / others


def test_others_find_their_share_when_they_come_back() -> None:
    with Site() as site, ExitStack() as stack:
        bound = QueueBound(8, overloaded=True, client_per_s=PLACES * 1000 // TAKES_MS)
        site.start(site.plan(site.service(limit=PLACES, bound=bound)))

        def others(seconds: float) -> tuple[int, int]:
            asks = [Asking(site.port, f"127.0.0.{2 + number}", 0.15) for number in range(3)]
            with ExitStack() as while_they_ask:
                for asking in asks:
                    while_they_ask.enter_context(asking)
                time.sleep(seconds)
            return sum(asking.served for asking in asks), sum(asking.asked for asking in asks)

        greedy(site, stack)
        others(1.5)
        time.sleep(3.0)  # in which nobody is worse off than the greedy one
        served, asked = others(4.0)
        print(f"of 400 places {served} to others, which asked for {asked}")
        assert served >= 0.5 * asked  # without fairness a tenth to a quarter


def greedy(site: Site, stack: ExitStack) -> None:
    """One client that asks for ten times of what there is."""
    for number in range(40):
        stack.enter_context(Asking(site.port, "127.0.0.1", 0.03, wait_s=0.03 * number / 40))


def test_nobody_is_refused_for_its_rate_while_places_are_free() -> None:
    with Site() as site:
        bound = QueueBound(100, overloaded=True, client_per_s=1)
        site.start(site.plan(site.service(limit=10, bound=bound)))
        with Clients(site) as clients:
            assert {clients.ask("/").status for _ in range(20)} == {200}


def test_who_sticks_to_a_full_replica_is_refused_and_others_find_the_free_one() -> None:
    with Site() as site:
        web = site.service(count=2, limit=1, sticky=True, deadline_s=LONG_S, bound=QueueBound(0))
        site.start(site.plan(web))
        with Clients(site) as clients:
            mine = {"cookie": "headway-web=web.1"}
            clients.begin("/hold/first", **mine)
            until(lambda: clients.queue.in_flight == 1, "web.1 is full")
            clients.wait("second", **mine)
            assert clients.ask("/third", **mine).status == 503
            assert clients.ask("/other").replica == "web.2"
            assert clients.ask("/other", cookie="headway-web=web.2").replica == "web.2"
