"""Runs the documentation: what a page says that a command prints, it prints."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from docs_pages import EXAMPLES, GUIDES, ROOT, TUTORIAL, Step, name_of, steps
from docs_runner import Ran, run_page, shape, taken_apart
from harness import Running

PAGES = (ROOT / "README.md", *TUTORIAL, *GUIDES, *EXAMPLES)
LOAD_ROWS = re.compile(r"^  (offered|goodput|late|refused|failed|latency|statuses)\b")


def expected(ran: Ran) -> set[str]:
    """The lines that must be there, in their shape. How a load went differs; which rows it has does only a little."""
    if "headway load" in ran.step.command or any(LOAD_ROWS.match(line) for line in ran.step.output):
        rows = {match[1] for line in ran.step.output if (match := LOAD_ROWS.match(line))}
        return rows - {"late", "refused"}
    return {shape(line) for line in ran.step.output if line.strip() and "…" not in line}


def printed(ran: Ran) -> set[str]:
    lines = (*ran.output, *ran.meanwhile)
    rows = {match[1] for line in lines if (match := LOAD_ROWS.match(line))}
    return rows | {shape(line) for line in lines}


def test_a_shape_keeps_words_and_forgets_numbers() -> None:
    assert shape("  web.1    ready  14559          0  52.2 MiB         0") == "web.# ready # # # SIZE #"
    assert shape("21:46:54   web.2        ready after 1.2 s") == shape("07:00:00   web.1        ready after 400 ms")
    assert shape("error: /a/b is gone") != shape("error: /a/b is here")


def test_what_a_job_in_the_background_prints_counts_until_its_wait() -> None:
    wanted = [Step(command, (), line) for line, command in enumerate(("load &", "sleep 3", "scale", "wait", "down"))]
    printed_by = ("", "", "late\n", "", "gone\n")
    said = "".join(f"\x1e{number} {text}\x1e= 0\n" for number, text in enumerate(printed_by))
    found = taken_apart(said, wanted)
    assert [ran.output for ran in found] == [(), (), ("late",), (), ("gone",)]
    assert [ran.meanwhile for ran in found] == [("late",)] * 4 + [()]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_prints_what_it_says(page: Path, place: Path) -> None:
    outcomes = run_page(page, place)
    assert len(outcomes) == len(steps(page)) > 3
    for ran in outcomes:
        missing = expected(ran) - printed(ran)
        told = "\n".join(ran.output)
        assert not missing, f"{name_of(page)}:{ran.step.line}: {ran.step.command}\nmissing: {missing}\nprinted:\n{told}"
        says_failed = any(LOAD_ROWS.match(line) and "failed" in line for line in ran.step.output)
        told_here = ran.output
        if ran.meanwhile:  # of a load in the background is spoken where it is waited for
            told_here = ran.meanwhile if ran.step.command.startswith("wait") else ()
        assert says_failed or not any(line.startswith("  failed") for line in told_here), told
        if not any(line.startswith("error:") for line in ran.step.output):
            assert not any(line.startswith(("error:", "Traceback")) for line in ran.output), told


def test_the_folders_hold_what_the_architecture_says(place: Path) -> None:
    (place / "hello.py").write_text("async def app(scope, receive, send): ...\n")
    declaration = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "hello:app"
replicas = 1
uses = ["main"]
[services.shop]
app = "hello:app"
routes = ["/shop"]
env = { WEB = "{web.url}" }
[databases.main]
"""
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## The two folders")[2].partition("\n## ")[0]
    state_table, run_table = text.partition("| run folder |")[::2]
    with Running(place, declaration) as system:
        system.ok("scale", "web", "2")
        for folder, table in ((system.state, state_table), (system.folders.run, run_table)):
            names = re.findall(r"`([^`\s]+)`", "\n".join(line for line in table.splitlines() if line.startswith("|")))
            patterns = [re.compile(_pattern(name)) for name in names]
            # Twice: what is there for a moment only is written anew, and has another name then.
            before = _files(folder)
            time.sleep(0.5)
            found = [str(path.relative_to(folder)) for path in _files(folder) if path in before]
            unknown = [name for name in found if not any(pattern.fullmatch(name) for pattern in patterns)]
            assert unknown == []
            assert len(found) > 5


def _files(folder: Path) -> list[Path]:
    return [Path(place) / name for place, _folders, names in os.walk(folder) for name in names]


def _pattern(name: str) -> str:
    """`logs/NAME.log` as a pattern; a folder stands for all that is in it."""
    return re.escape(name).replace("NAME", r"[\w.-]+") + (".*" if name.endswith("/") else "")
