"""When a fault was noticed and when it was over, told from what was seen; and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from headway.lab.aftermath import CALM_S, Aftermath, Look, calm_of
from headway.lab.fault import Fault, How, Part
from headway.lab.fault_verdict import Broken, promises, sentence

WEB = Part("replica", "web.1", "web.1", 11, 1, service="web", ready=2)
EDGE = Part("edge", "edge", "edge", 3, 1)
CONTROLLER = Part("controller", "controller", "controller", 2, 1)
SERVER = Part("server", "main", "database.main", 20, 1)


CACHE = Part("cache", "hot", "cache.hot", 30, 1)


def document(
    web: int = 11, state: str = "ready", edge: int = 3, controller: int = 2, cache: str = "ready"
) -> dict[str, Any]:
    return {
        "state": state,
        "controller": {"pid": controller},
        "edge": {"pid": edge, "state": "ready"},
        "services": {
            "web": {"ready": 2, "wanted": 2, "replicas": [{"name": "web.1", "pid": web, "state": "ready"}]},
        },
        "databases": {"main": {"servers": [{"name": "main", "state": "ready"}]}},
        "caches": {"hot": {"state": cache}},
    }


def aftermath(part: Part, how: How = "kill", bad: int = 0) -> Aftermath:
    return Aftermath(Fault(part, how), document(), bad, in_flight_max=3)


def look(at_s: float, found: dict[str, Any] | None = None, pid: int | None = 11, **more: Any) -> Look:
    return Look(at_s, found, pid, more.pop("bad", 0), more.pop("in_flight", 1), **more)


def test_a_killed_replica_is_over_when_another_process_serves_and_it_is_calm() -> None:
    found = aftermath(WEB)
    found.see(look(0.01, document()))  # the status is still that of before
    assert (found.noticed_s, found.restored_s) == (None, None)
    found.see(look(0.05, document(state="degraded"), None))
    assert found.noticed_s == 0.05
    found.see(look(0.2, document(state="degraded"), 12))
    found.see(look(0.3, document(web=11), 12))  # the document still speaks of the dead one
    assert (found.restarted_s, found.restored_s) == (0.2, None)
    found.see(look(0.5, document(web=12), 12))
    assert found.recovered_s == 0.5
    assert not found.is_over(0.5 + CALM_S - 0.1)
    assert found.is_over(0.5 + CALM_S)


def test_the_last_bad_request_counts_though_all_parts_are_back() -> None:
    found = aftermath(WEB, bad=4)
    found.see(look(0.5, document(web=12), 12, bad=4))
    found.see(look(1.5, document(web=12), 12, bad=5))
    assert found.recovered_s == 1.5
    assert not found.is_over(2.5)
    assert found.is_over(1.5 + CALM_S)


def test_a_queue_of_requests_is_not_calm() -> None:
    found = aftermath(WEB)
    found.see(look(0.5, document(web=12), 12, in_flight=40))
    assert not found.is_over(100)


def test_what_breaks_again_is_not_restored() -> None:
    found = aftermath(WEB)
    found.see(look(0.5, document(web=12), 12))
    found.see(look(0.6, document(web=12, state="degraded"), 12))
    assert found.recovered_s is None
    found.see(look(0.9, document(web=12), 12))
    assert found.recovered_s == 0.9


def test_the_earlier_of_journal_and_sight_is_when_it_was_noticed() -> None:
    found = aftermath(WEB)
    found.see(look(0.10, document(), None))
    found.see(look(0.12, document(), None, told=((0.04, "take out of the edge: its process ended"),)))
    assert (found.noticed_s, found.noticed_by) == (0.04, "take out of the edge: its process ended")


def test_a_stopped_replica_is_not_taken_for_a_whole_one() -> None:
    found = aftermath(WEB, "hang")
    found.see(look(0.1, document()))
    assert (found.noticed_s, found.restored_s) == (None, None)
    found.see(look(0.7, document(state="degraded")))
    assert (found.noticed_s, found.out_s, found.noticed_by) == (0.7, 0.7, "the edge took it out")
    found.see(look(5.0, document(web=12), 12))
    assert found.restored_s == 5.0


def test_a_hang_that_nobody_ends_is_over_when_it_goes_on() -> None:
    found = aftermath(CONTROLLER, "hang")
    found.see(look(0.5, None, 2))
    found.see(look(9.9, document(), 2))
    assert found.restored_s is None
    found.see(look(10.1, document(), 2, released=True))
    assert (found.noticed_s, found.recovered_s) == (None, 10.1)


def test_a_controller_that_does_not_answer_has_not_noticed_itself() -> None:
    found = aftermath(CONTROLLER)
    found.see(look(0.01, None, 2))
    assert found.noticed_s is None
    found.see(look(0.03, None, None))
    found.see(look(0.4, document(controller=5), 5))
    assert (found.noticed_s, found.recovered_s) == (0.03, 0.4)


def test_the_state_of_a_server_is_believed_when_it_is_newer_than_the_fault() -> None:
    found = aftermath(SERVER)
    found.see(look(0.09, document(), 21))  # "ready" is from the last look at its health
    assert found.restored_s is None
    found.see(look(0.30, document(), 21, told=((0.29, "restarted"),)))
    assert found.restored_s == 0.30


def test_a_cache_that_is_away_is_noticed_by_its_state() -> None:
    found = aftermath(CACHE, "hang")
    found.see(look(0.5, document(), 30))
    found.see(look(1.4, document(cache="down", state="degraded"), 30))
    assert (found.noticed_s, found.noticed_by) == (1.4, "its state became down")
    found.see(look(3.1, document(), 31))
    assert (found.restarted_s, found.recovered_s) == (3.1, 3.1)


def test_a_scale_down_meanwhile_is_no_loss() -> None:
    found = aftermath(EDGE)
    fewer = document(edge=4)
    fewer["services"]["web"] |= {"ready": 1, "wanted": 1}
    found.see(look(0.3, fewer, 4))
    assert found.restored_s == 0.3


GOOD = Broken(
    fault=Fault(WEB, "kill"),
    url="http://127.0.0.1:8000/",
    rate_per_s=50,
    slow_s=1.0,
    offered=100,
    ok=100,
    failed=0,
    refused=0,
    slow=0,
    slowest_ms=7.0,
    median_before_ms=2.0,
    noticed_s=0.03,
    noticed_by="its process ended",
    out_s=0.05,
    restarted_s=0.1,
    restored_s=0.5,
    recovered_s=0.5,
    watched_s=2.6,
)


def kept(broken: Broken) -> list[bool | None]:
    return [promise.kept for promise in promises(broken)]


def test_what_is_kept_is_said_so() -> None:
    assert kept(GOOD) == [True, True]
    assert sentence(GOOD) == (
        "replica web.1 was killed: none of 100 requests came to nothing, and all was as before after 500 ms. "
        "What is promised for this was kept."
    )


def test_what_is_not_kept_is_named() -> None:
    lost = replace(GOOD, failed=2, ok=97, slow=1, restarted_s=3.0)
    assert kept(lost) == [False, False]
    assert "2 of 100 requests came to nothing, 1 was slow" in sentence(lost)
    assert "Not kept: no GET fails" in sentence(lost)


def test_nothing_is_promised_for_the_requests_of_an_only_replica() -> None:
    alone = replace(GOOD, fault=Fault(replace(WEB, ready=1), "kill"), failed=9)
    assert kept(alone) == [None, True]


def test_what_does_not_come_back_is_not_called_recovered() -> None:
    gone = replace(GOOD, recovered_s=None, restored_s=None, watched_s=60.0)
    assert "after 60 s not all is as it was" in sentence(gone)
    assert kept(gone)[1] is False


@pytest.mark.parametrize(
    ("part", "how", "changes", "expected"),
    [
        (WEB, "hang", {"out_s": 1.9}, [True, True, True]),
        (WEB, "hang", {"out_s": 2.1, "restarted_s": 5.0}, [True, False, False]),
        (EDGE, "kill", {"restored_s": 0.2, "failed": 3}, [True, True]),
        (EDGE, "kill", {"restored_s": 0.6, "failures": {"connection refused": 1}}, [False, False]),
        (EDGE, "hang", {"restarted_s": 1.5}, [True, True]),
        (CONTROLLER, "kill", {}, [True, True]),
        (CONTROLLER, "kill", {"slow": 1}, [False, True]),
        (CONTROLLER, "hang", {"failed": 1}, [None]),
        (SERVER, "kill", {"failed": 20}, [True, True, None]),
        (SERVER, "kill", {"failed": 20, "failures": {"deadline": 20}}, [True, False, None]),
        (SERVER, "hang", {"slow": 20}, [None]),
    ],
)
def test_each_fault_has_its_promises(
    part: Part, how: How, changes: dict[str, Any], expected: list[bool | None]
) -> None:
    assert kept(replace(GOOD, fault=Fault(part, how), **changes)) == expected


def test_the_document_has_the_keys_that_tools_rely_on() -> None:
    told = GOOD.as_json()
    assert list(told)[:6] == ["what", "how", "failed", "slow", "noticed_s", "recovered_s"]
    assert told["what"] == "replica web.1"


@pytest.mark.parametrize(("rate_per_s", "calm_s"), [(1, 2), (50, 2), (80, 1.25), (100, 1), (5000, 1)])
def test_the_calm_lasts_as_many_requests_as_would_show_that_it_is_none(rate_per_s: float, calm_s: float) -> None:
    assert calm_of(rate_per_s) == calm_s


@pytest.mark.parametrize(
    ("how", "failed", "restarted_s", "kept"),
    [
        ("kill", 0, 0.1, [True, True]),
        ("kill", 1, 0.1, [False, True]),
        ("hang", 0, 3.2, [True, True]),
        ("hang", 0, 9.0, [True, False]),
    ],
)
def test_what_is_promised_of_a_cache(how: How, failed: int, restarted_s: float, kept: list[bool]) -> None:
    found = promises(replace(GOOD, fault=Fault(CACHE, how), failed=failed, restarted_s=restarted_s, restored_s=0.3))
    assert [promise.kept for promise in found] == kept
