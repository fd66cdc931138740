"""Replicas come, go, die and hang under load, without a reload and without a failed request where that is promised."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter

import httpx
import pytest
from edge_load import Load
from edge_site import Site, until

from headway.edge.errors import EdgeRefused, EdgeUnreachable
from headway.edge.runtime_api import RuntimeApi

pytestmark = pytest.mark.alone

# How a request that may not be repeated ends when its replica goes: HAProxy answers 502, or closes without a word when
# the connection to the replica had served another request before.
CUT = {"502", "closed"}


def state_of(site: Site, name: str):  # type: ignore[no-untyped-def]
    return next((state for state in site.api.replicas() if state.name == name), None)


def test_replicas_are_added_drained_and_removed_under_load() -> None:
    with Site(patient=False) as site:
        process = site.start(site.plan(site.service("web", 1)))
        with Load(site.port) as load:
            for name in ("web.2", "web.3"):
                site.api.add("web", site.replica(name, limit=7))
                until(lambda name=name: state_of(site, name).requests > 5, f"{name} is used")
            assert state_of(site, "web.2").limit == 7
            site.api.set_limit("web", "web.2", 3)
            assert state_of(site, "web.2").limit == 3
            site.api.set_limits([("web", "web.2", 9), ("web", "web.3", 0)])
            assert (state_of(site, "web.2").limit, state_of(site, "web.3").limit) == (9, 1)
            for name in ("web.1", "web.2"):
                site.api.drain("web", name)
                assert state_of(site, name).admin == "drain"
                until(lambda name=name: state_of(site, name).in_flight == 0, f"{name} is drained")
                site.origins[name].terminate()
                until(lambda name=name: site.api.remove("web", name) == "removed", f"{name} is removed")
                assert state_of(site, name) is None
            until(lambda: load.done > 300, "more requests were answered")
        assert load.failed == {}
        assert site.api.remove("web", "web.1") == "absent"
        assert site.api.process().pid == process.pid


def test_a_drained_replica_finishes_what_it_has_and_maint_cuts_it() -> None:
    with Site(patient=False) as site:
        site.start(site.plan(site.service("web", 2)))
        site.api.maint("web", "web.2")

        def post(outcomes: list[str]) -> None:
            try:
                outcomes.append(str(httpx.post(site.url + "/slow/600", timeout=60).status_code))
            except httpx.RemoteProtocolError:
                outcomes.append("closed")

        for leave, expected in ((site.api.drain, {"200"}), (site.api.maint, CUT)):
            site.api.enable("web", "web.1")
            outcomes: list[str] = []
            client = threading.Thread(target=post, args=(outcomes,))
            client.start()
            until(lambda: state_of(site, "web.1").in_flight == 1, "the request is in flight")
            leave("web", "web.1")
            client.join(60)
            assert len(outcomes) == 1
            assert set(outcomes) <= expected


def test_removing_a_replica_whose_connections_are_open_says_busy() -> None:
    with Site(patient=False) as site:
        site.start(site.plan(site.service("web", 1)))
        extra = site.replica("web.2")
        site.api.add("web", extra)
        with Load(site.port, "/slow/200") as load:
            until(lambda: state_of(site, "web.2").in_flight > 0, "web.2 is used")
            seen = [site.api.remove("web", "web.2")]
            until(
                lambda: seen[-1] == "removed" or seen.append(site.api.remove("web", "web.2")), "it is removed at last"
            )
        assert set(seen[:-1]) <= {"busy"}
        assert load.failed == {}


def test_no_get_fails_when_one_of_two_replicas_is_killed() -> None:
    with Site(patient=False) as site:
        site.start(site.plan(site.service("web", 2)))
        for path, new in (("/slow/30", False), ("/slow/30", True)):
            victim = "web.2" if new else "web.1"
            with Load(site.port, path, threads=12, new=new) as load:
                until(lambda load=load: load.done > 50, "the load runs")
                site.origins[victim].send_signal(signal.SIGKILL)
                until(lambda victim=victim: state_of(site, victim).operational == "down", "it is noticed", 5.0)
                done = load.done
                until(lambda load=load, done=done: load.done > done + 50, "the load goes on")
            assert load.failed == {}
            if not new:
                site.origins["web.1"].wait()
                site.replica("web.1")
                until(lambda: state_of(site, "web.1").operational == "up", "it is taken back")


def test_no_get_fails_when_one_of_two_replicas_hangs() -> None:
    with Site(patient=False) as site:
        site.start(site.plan(site.service("web", 2)))
        with Load(site.port, threads=6) as load:
            until(lambda: load.done > 50, "the load runs")
            site.origins["web.1"].send_signal(signal.SIGSTOP)
            until(lambda: state_of(site, "web.1").operational == "down", "it is noticed", 5.0)
            done = load.done
            until(lambda: load.done > done + 50, "the load goes on")
            site.origins["web.1"].send_signal(signal.SIGCONT)
            until(lambda: state_of(site, "web.1").operational == "up", "it is taken back", 5.0)
        assert load.failed == {}
        assert load.slowest_s < 8, "nobody waits for the one that hangs until the deadline"


def test_a_post_is_never_sent_twice() -> None:
    with Site(patient=False) as site:
        site.start(site.plan(site.service("web", 2)))
        assert httpx.post(site.url + "/break/1").status_code == 502
        with Load(site.port, "/slow/20", method="POST", threads=8) as load:
            until(lambda: load.done > 50, "the load runs")
            site.origins["web.1"].send_signal(signal.SIGKILL)
            until(lambda: state_of(site, "web.1").operational == "down", "it is noticed", 5.0)
            done = load.done
            until(lambda: load.done > done + 50, "the load goes on")
        arrivals = Counter(request["target"] for request in site.recorded())
        assert max(arrivals.values()) == 1
        assert set(load.failed) <= CUT
        # A connection that a dying process has not refused yet is in flight there as well.
        assert sum(load.failed.values()) <= 2 * 8, "only what was in flight on the dead one"


def test_a_get_whose_replica_breaks_off_is_repeated_but_an_answer_never() -> None:
    with Site(patient=False) as site:
        site.start(site.plan(site.service("web", 2)))
        assert httpx.get(site.url + "/break/1").status_code == 502
        assert len(site.recorded()) == 4, "the first attempt and three more"
        assert httpx.get(site.url + "/status/500").status_code == 500
        assert len(site.recorded()) == 5


def test_a_busy_replica_is_not_ejected() -> None:
    with Site(patient=False) as site:
        site.start(site.plan(site.service("web", 1, limit=2)))
        with Load(site.port, "/slow/100", threads=16) as load:
            until(lambda: load.done > 20, "the load runs")
            (state,) = site.api.replicas()
            assert (state.operational, state.in_flight) == ("up", 2)
            assert site.api.observe().totals.queued > 5
        assert load.failed == {}


def test_sticky_clients_stay_also_on_replicas_added_later_and_leave_when_it_drains() -> None:
    with Site(patient=False) as site:
        site.start(site.plan(site.service("web", 2, sticky=True)))
        site.api.add("web", site.replica("web.3"), sticky=True)
        seen = set()
        for _ in range(12):
            with httpx.Client(base_url=site.url) as client:
                first = client.get("/")
                replica = first.json()["replica"]
                assert "HttpOnly" in first.headers["set-cookie"]
                assert {client.get("/").json()["replica"] for _ in range(6)} == {replica}
                assert "headway-web" not in str(client.get("/").json()["headers"]), "the cookie is the edge's own"
                seen.add(replica)
        assert seen == {"web.1", "web.2", "web.3"}
        with httpx.Client(base_url=site.url) as client:
            home = client.get("/").json()["replica"]
            site.api.drain("web", home)
            moved = {client.get("/").json()["replica"] for _ in range(6)}
            assert len(moved) == 1
            assert home not in moved
        site.api.enable("web", home)
        with httpx.Client(base_url=site.url, cookies={"headway-web": home}) as client:
            assert {client.get("/").json()["replica"] for _ in range(6)} == {home}
            site.origins[home].send_signal(signal.SIGKILL)
            assert client.get("/").json()["replica"] != home


def test_a_replica_rendered_as_disabled_takes_nothing_until_it_is_enabled() -> None:
    with Site(patient=False) as site:
        off = site.replica("web.2", enabled=False)
        service = site.service("web", 1)
        site.start(site.plan(type(service)("web", ("/",), (*service.replicas, off), 10.0, 2**20)))
        assert {httpx.get(site.url).json()["replica"] for _ in range(8)} == {"web.1"}
        assert state_of(site, "web.2").admin == "maint"
        site.api.enable("web", "web.2")
        assert {httpx.get(site.url).json()["replica"] for _ in range(8)} == {"web.1", "web.2"}


def test_says_what_it_cannot_do() -> None:
    with Site(patient=False) as site:
        site.start(site.plan(site.service("web", 1)))
        with pytest.raises(EdgeRefused, match=r"web/web\.9"):
            site.api.enable("web", "web.9")
        with pytest.raises(EdgeRefused, match="Already exists"):
            site.api.add("web", site.replica("web.1"))
        with pytest.raises(EdgeUnreachable, match=r"nothing\.sock"):
            RuntimeApi(str(site.folder / "nothing.sock")).observe()


def test_gives_up_on_a_stopped_haproxy_in_time() -> None:
    with Site(patient=False) as site:
        process = site.start(site.plan(site.service("web", 1)))
        os.kill(process.pid, signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(EdgeUnreachable, match="in time"):
            RuntimeApi(site.api.path, timeout_s=0.2).observe()
        assert time.monotonic() - begun < 10
