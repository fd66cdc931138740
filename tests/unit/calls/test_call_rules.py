"""What is tried again, how many calls are under way, how long one may take, what an answer means."""

from __future__ import annotations

import pytest

from headway.calls.budget import RESERVE, RESERVE_PER_S, RetryBudget
from headway.calls.bulkhead import BOUND_MIN, Bulkhead, bound_max
from headway.calls.client.asked import Outgoing, body_of, target_of
from headway.calls.meaning import RETRY_AFTER_MAX_S, meaning, retry_after_s
from headway.calls.patience import allowed_s, as_ms, is_telling
from headway.calls.retry import ATTEMPTS_MAX, Ended, is_repeatable, may_repeat
from headway.calls.totals import Running, add_up


def test_a_process_with_few_calls_may_repeat_one_a_second() -> None:
    budget = RetryBudget(1000.0)
    assert [budget.take(1000.0 + second) for second in range(6)] == [True] * 6
    assert [budget.take(1005.0) for _ in range(3)] == [False] * 3


def test_what_a_replica_took_along_may_be_repeated_once_out_of_a_reserve() -> None:
    budget = RetryBudget(1000.0)
    assert sum(budget.take(1000.0, is_broken=True) for _ in range(200)) == 1 + RESERVE
    assert not budget.take(1000.5)
    assert sum(budget.take(1002.0, is_broken=True) for _ in range(200)) == 2 + 2 * RESERVE_PER_S
    assert sum(budget.take(1300.0, is_broken=True) for _ in range(200)) == 10 + RESERVE


def test_a_fifth_of_many_calls_may_be_repeated() -> None:
    budget = RetryBudget(1000.0)
    for call in range(1000):
        budget.called(1000.0 + call / 100)
    assert sum(budget.take(1009.99) for _ in range(1000)) == 200
    assert budget.take(1025.0)  # forgotten, but for the floor


@pytest.mark.parametrize("ended", list(Ended))
def test_only_what_is_safe_is_tried_again(ended: Ended) -> None:
    once = may_repeat(ended, 1, False, True, 1.0)
    safe = may_repeat(ended, 1, True, True, 1.0)
    assert once is (ended is Ended.UNSENT)
    assert safe is (ended in (Ended.UNSENT, Ended.SICK, Ended.TIMED_OUT, Ended.BROKEN))
    assert not may_repeat(ended, ATTEMPTS_MAX, True, True, 1.0)
    assert not may_repeat(ended, 1, True, True, 0.0)
    assert not may_repeat(ended, 1, True, False, 1.0)  # its body has been read


def test_methods_that_may_be_repeated() -> None:
    assert [m for m in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH") if is_repeatable(m, False)] == [
        "GET",
        "HEAD",
        "OPTIONS",
        "PUT",
        "DELETE",
    ]
    assert is_repeatable("POST", True)
    assert Outgoing("post", "/", headers={"Idempotency-Key": "7"}).is_repeatable
    assert Outgoing("POST", "/", idempotency_key="7").headers == {"idempotency-key": "7"}
    assert not Outgoing("PUT", "/", content=iter([b"a"])).is_replayable


def test_threads_leave_half_of_themselves_to_other_requests() -> None:
    assert [bound_max(256, threads) for threads in (0, 1, 2, 8, 9)] == [256, 1, 1, 4, 4]
    assert [bound_max(3, threads) for threads in (0, 1, 4, 8)] == [3, 1, 2, 3]


def test_a_quick_service_is_waited_for_and_a_stuck_one_is_not() -> None:
    bulkhead = Bulkhead(4)
    assert all(bulkhead.enter(10.0) for _ in range(4))
    assert not bulkhead.enter(10.0)
    assert bulkhead.waiters_max(10.05) == 4  # nothing can have come back yet
    assert bulkhead.waiters_max(10.5) == 0
    now_s = 10.5
    for turn in range(100):
        now_s = 10.5 + turn * 0.005
        assert bulkhead.leave(now_s)
        assert bulkhead.enter(now_s)
    assert 15 <= bulkhead.waiters_max(now_s) <= 20
    assert bulkhead.waiters_max(now_s + 1) == 0


def test_the_bound_falls_with_misses_and_rises_with_answers() -> None:
    bulkhead = Bulkhead(100)
    for _ in range(50):
        assert bulkhead.enter(10.0)
    for _ in range(50):
        bulkhead.missed(10.0)  # together: one reason
    assert bulkhead.bound == 35
    alone = Bulkhead(100)
    assert alone.enter(10.0)
    alone.missed(10.0)
    assert alone.bound == 11
    for second in range(100):
        bulkhead.missed(11.0 + second)
    assert bulkhead.bound == BOUND_MIN
    for _ in range(20_000):
        bulkhead.answered()
    assert bulkhead.bound == 100


def test_a_call_takes_no_longer_than_anybody_waits() -> None:
    assert allowed_s(30.0, None, 1e9) == 30.0
    assert allowed_s(30.0, 2.0, 1e9) == 2.0
    assert allowed_s(30.0, None, 1.0) == pytest.approx(0.9)
    assert allowed_s(30.0, None, 20.0) == pytest.approx(19.75)
    assert allowed_s(30.0, None, 0.0) <= 0
    assert allowed_s(30.0, -1.0, 5.0) <= 0
    assert [as_ms(left) for left in (0.0001, 1.5, 1e12)] == ["1", "1500", "86400000"]


def test_an_impatient_caller_says_nothing_of_a_service() -> None:
    assert not is_telling(0.05, 0.1)
    assert is_telling(0.2, 0.1)
    assert is_telling(1.0, 5.0)


def test_what_answers_mean() -> None:
    assert meaning(503, "refused") is Ended.REFUSED
    assert meaning(504, "deadline") is Ended.SPENT
    assert meaning(502, "unavailable") is Ended.BROKEN
    assert meaning(503, "no-retry") is Ended.NO_POINT
    assert [meaning(status, None) for status in (502, 503, 504)] == [Ended.SICK] * 3
    assert [meaning(status, "refused") for status in (200, 404, 500)] == [Ended.ANSWERED] * 3
    assert meaning(503, "of a later version") is Ended.SICK
    texts = (None, "", "7", "-1", "1e9", "Fri, 31 Dec 1999 23:59:59 GMT", "99999999999999", "²")
    assert [retry_after_s(text) for text in texts] == [1, 1, 7, 1, 1, 1, RETRY_AFTER_MAX_S, 1]


def test_paths_and_queries() -> None:
    assert target_of("/a", None) == "/a"
    assert target_of("/a", {"b": [1, None, True], "c": "ü &"}) == "/a?b=1&b=&b=true&c=%C3%BC+%26"
    assert target_of("/a?x=1#part", [("b", 2)]) == "/a?x=1&b=2"
    assert target_of("/a", "b=%20") == "/a?b=%20"
    for wrong in ("a", "", "http://elsewhere/a"):
        with pytest.raises(ValueError, match="no path of a service"):
            target_of(wrong, None)


def test_bodies() -> None:
    assert body_of({"a": "ü"}, None, None) == ('{"a":"ü"}'.encode(), "application/json")
    assert Outgoing("POST", "/", json=None).body == b"null"
    assert Outgoing("POST", "/", data={"a": [1, 2]}).body == b"a=1&a=2"
    assert Outgoing("POST", "/", content="text").body == b"text"
    with pytest.raises(TypeError, match="one of json, data and content"):
        Outgoing("POST", "/", json=1, content=b"")
    with pytest.raises(TypeError, match="not int"):
        Outgoing("POST", "/", content=7)
    with pytest.raises(ValueError, match="JSON compliant"):
        Outgoing("POST", "/", json=float("nan"))


def process(service: str, calls: int, breaker: str = "closed") -> dict[str, object]:
    return {"service": service, "targets": {"inventory": {"calls": calls, "in_flight": 1, "breaker": breaker}}}


def test_processes_are_added_up() -> None:
    found = add_up([process("web", 2), process("web", 3, "open"), process("jobs", 1), {"service": 7}, {}])
    assert found["web"]["inventory"]["calls"] == 5
    assert (found["web"]["inventory"]["breaker"], found["web"]["inventory"]["open_in"]) == ("open", 1)
    assert (found["jobs"]["inventory"]["calls"], found["jobs"]["inventory"]["processes"]) == (1, 1)


def test_counters_only_grow_over_processes_that_end() -> None:
    running = Running()
    assert running.look({"a": process("web", 5), "b": process("web", 7)})["web", "inventory"]["calls"] == 12
    assert running.look({"b": process("web", 8)})["web", "inventory"]["calls"] == 13
    assert running.look({"b": process("web", 2)})["web", "inventory"]["calls"] == 15  # of the same number, begun anew
