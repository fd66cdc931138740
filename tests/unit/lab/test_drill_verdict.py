"""What a drill says about known figures, on a terminal and on paper."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from headway.errors import AppError, HeadwayError
from headway.lab.drill.bare import bare_server
from headway.lab.drill.findings import Bare, Death, Drill, Recovery, Size, Step, Subject, step_of
from headway.lab.drill.paper import paper
from headway.lab.drill.recovery import Slice
from headway.lab.drill.run import NORMAL, QUICK, check_answer
from headway.lab.drill.search import Capacity
from headway.lab.drill.table import aligned, render
from headway.lab.drill.usl import Forecast, Unknown, forecast
from headway.lab.drill.verdict import verdicts
from headway.lab.generator import Generator
from headway.lab.outcome import LoadResult

SUBJECT = Subject("shop", "http://127.0.0.1:8000/", "web", 2, 0.25, "declared", 1.0, 4)
CAPACITY = Capacity(400.0, "system")


def step(times: float, goodput: float, *, refused: int = 0, failed: int = 0, void: str = "") -> Step:
    return Step(times, 400 * times, 2_000, goodput, 0, refused, failed, 80.0, 140.0, 1.5, 0.2, void=void)


def after(seconds: float | None) -> Recovery:
    return Recovery(4_000, 3.0, 280, 10.0, seconds, tuple(Slice(n / 4, 0.25, 70, 70) for n in range(40)))


HOLDS = Drill(SUBJECT, CAPACITY, (step(1, 390), step(10, 384, refused=1_500)), after(0.0))
BREAKS = Drill(SUBJECT, CAPACITY, (step(1, 390), step(10, 12, failed=1_900)), after(None))


def said(drill: Drill) -> str:
    return "\n".join(verdicts(drill))


def test_a_system_that_holds_is_told_from_one_that_breaks() -> None:
    assert "It holds: at 10x it still answers 96% of its capacity" in said(HOLDS)
    assert "knows it within 1.5 ms" in said(HOLDS)
    assert "all answers are in time again at once" in said(HOLDS)
    assert "It breaks: at 10x only 3%" in said(BREAKS)
    assert "95% of the requests failed at 10x" in said(BREAKS)
    assert "had not recovered within 10 s" in said(BREAKS)
    bends = replace(HOLDS, steps=(step(10, 250),), recovery=after(2.5))
    assert "It bends: at 10x it answers 62%" in said(bends)
    assert "takes 2.5 s until" in said(bends)


def test_a_void_step_is_no_evidence() -> None:
    drill = replace(HOLDS, steps=(step(2, 390), step(10, 0, void="the generator made only 900/s of it")))
    assert "at 2x it still answers" in said(drill)
    assert "10x" not in said(drill)
    row = next(line for line in render(drill).splitlines() if line.strip().startswith("10x"))
    assert "void: the generator made only 900/s of it" in row


def test_a_wall_that_was_the_generator_is_said_first() -> None:
    drill = replace(HOLDS, capacity=Capacity(9_000.0, "generator"))
    assert verdicts(drill)[0].startswith("It answers more than 9,000/s within 250 ms: the generator was the wall")
    assert drill.as_json()["capacity"]["is_lower_bound"] is True


def test_the_death_of_the_only_replica_has_a_cure() -> None:
    alone = Death("web.1", 1, 200, 1_200, 0, 300, 20, 0.8)
    assert "The only replica, killed, is back in 0.8 s: 20 failed, 300 refused" in said(replace(HOLDS, death=alone))
    assert "replicas = 2" in said(replace(HOLDS, death=alone))
    two = Death("web.1", 2, 200, 1_200, 0, 0, 0, 0.8)
    assert "A killed replica of 2 is back in 0.8 s, and no request noticed." in said(replace(HOLDS, death=two))
    assert "was not back" in said(replace(HOLDS, death=replace(two, back_s=None)))


def test_bare_stands_beside_ours() -> None:
    drill = replace(HOLDS, bare=Bare("uvicorn", (step(1, 390), step(10, 26)), after(None)))
    assert "Bare (uvicorn) it answers 26/s in time at 10x, behind Headway 384/s." in said(drill)
    assert "bare, by uvicorn" in render(drill)


def test_a_ceiling_has_its_interval_or_a_reason() -> None:
    sizes = tuple(Size(n, int(n), (100 * n, 99 * n, 101 * n)) for n in (1.0, 2.0, 4.0, 8.0))
    found = forecast({size.cores: size.per_s for size in sizes}, 16)
    drill = replace(HOLDS, sizes=sizes, ceiling=found)
    assert "On 16 cores expect 1,600/s (" in said(drill)
    assert "From 1 to 8 cores the throughput grows 8.00 times." in said(drill)
    unknown = replace(HOLDS, sizes=sizes[:1], ceiling=Unknown("one size says nothing"))
    assert "No ceiling: one size says nothing." in said(unknown)
    bound = replace(HOLDS, sizes=sizes[:3], ceiling=forecast({s.cores: s.per_s for s in sizes[:3]}, 8))
    assert isinstance(bound.ceiling, Forecast)
    most = f"at most {bound.ceiling.high_per_s:,.0f}/s"
    assert f"On 8 cores expect {most}" in said(bound)
    assert most in render(bound)


@pytest.mark.parametrize("drill", [HOLDS, BREAKS, replace(HOLDS, steps=(), recovery=None)])
def test_every_drill_can_be_printed_and_kept(drill: Drill) -> None:
    assert json.loads(json.dumps(drill.as_json()))["capacity"]["per_s"] == 400
    assert "shop: what it does when it is too much" in render(drill)
    page = paper(drill, "headway drill --report <x>.html")
    assert "&lt;x&gt;" in page
    assert "<script" not in page


def test_a_table_stands_in_columns() -> None:
    assert aligned([("a", "bb"), ("ccc", "d")]) == ["    a  bb", "  ccc   d"]
    assert aligned([("a", "b", "c"), ("1x", "void: a long reason")]) == ["   a  b  c", "  1x  void: a long reason"]


def test_a_page_fits_a_terminal_of_80_columns() -> None:
    wide = Step(0.5, 98_765.4, 2_000_000, 9_876.5, 0, 1_500, 1, 0.0125 * 1000, 1_234.5, 123.4, 0.2, at_least=True)
    drill = replace(HOLDS, steps=(wide, step(10, 384)), bare=Bare("uvicorn", (wide,), after(None)))
    rows = [line for line in render(drill).splitlines() if line.split()[:1] in (["load"], ["0.5x"], ["10x"])]
    assert len(rows) == 5
    lines = render(replace(drill, notes=("no slo is declared, " * 9,))).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("    ")
    assert "≥ 9,876/s" in rows[1]


def load_result(statuses: dict[str, int], *, bottleneck: bool = False, made: float = 100.0) -> LoadResult:
    percentiles = {"p50": 1.0, "p90": 1.0, "p99": 1.0, "max": 1.0}
    generator = Generator(0.9, 20.0, bottleneck, "own core used up" if bottleneck else None, made_per_s=made)
    failures = {} if statuses else {"deadline": 1}
    return LoadResult(100, 90, 90, 0, 0, 10, percentiles, percentiles, statuses, failures, generator, 1.0)


def test_a_step_that_the_generator_did_not_make_is_void() -> None:
    assert step_of(1, 100, load_result({"200": 90})).void == ""
    short = step_of(1, 100, load_result({"200": 90}, bottleneck=True, made=95))
    assert short.at_least
    assert not short.void
    assert "made only 40/s" in step_of(1, 100, load_result({"200": 90}, bottleneck=True, made=40)).void


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        ({"404": 1}, "answers 404"),
        ({"401": 1}, "answers 401"),
        ({"503": 1}, "answers 503 without any load"),
        ({}, "no answer to a first request: deadline"),
    ],
)
def test_what_cannot_be_drilled_is_refused_with_a_path_to_try(statuses: dict[str, int], words: str) -> None:
    with pytest.raises(HeadwayError, match=words) as refused:
        check_answer(load_result(statuses), SUBJECT)
    assert "--path" in refused.value.hint


def test_an_app_that_is_broken_is_an_error_of_the_app() -> None:
    with pytest.raises(AppError, match="answers 500 without any load"):
        check_answer(load_result({"500": 1}), SUBJECT)
    assert check_answer(load_result({"200": 1}), SUBJECT) == []
    assert "redirect" in check_answer(load_result({"307": 1}), SUBJECT)[0]


@pytest.mark.parametrize(
    ("is_wsgi", "modules", "name"),
    [
        (False, {"uvicorn", "gunicorn"}, "uvicorn"),
        (False, {"gunicorn"}, "granian"),
        (True, {"uvicorn", "gunicorn"}, "gunicorn"),
        (True, {"uvicorn"}, "granian"),
    ],
)
def test_the_bare_server_is_the_one_of_the_interface(is_wsgi: bool, modules: set[str], name: str) -> None:
    server = bare_server(
        python="/x/python", app="shop:make()", is_wsgi=is_wsgi, modules=modules, workers=2, threads=8, port=8001
    )
    assert server.name == name
    assert server.argv[:3] == ("/x/python", "-m", name)
    assert ("--factory" in server.argv) == (name != "gunicorn")
    assert any("8001" in word for word in server.argv)


def test_more_work_takes_longer() -> None:
    least = QUICK.estimate_s(sizes=0, bare=False, kills=True)
    assert 20 < least < 60
    assert least < NORMAL.estimate_s(sizes=0, bare=False, kills=True)
    assert NORMAL.estimate_s(sizes=2, bare=False, kills=True) < NORMAL.estimate_s(sizes=2, bare=True, kills=True)
