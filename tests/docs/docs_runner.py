"""Runs a page of the documentation as its reader would: one shell, its files, its commands one after the other.

What differs from what is written, and nothing else:

- addresses: each port of the page is replaced by a free one, in files and commands, and back in the output;
- time: loads of `--for 10s` last half a second, `--for 12s` five seconds, `sleep 3` one; of several rates in a row the
  first and the last are tried; a crowd of ten thousand is one of a thousand, a rush and its end last a second.

What a job in the background prints counts for all steps until it is waited for, whenever it came: a slow machine may be
late.

A page is left as it began: a guard takes its system down even when the test is killed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from docs_pages import ROOT, Step, files, steps
from harness import HEADWAY, die_with_parent, free_port

from headway.process.folders import folders_for

PORTS = ("8000", "8001", "8080", "8443")
FASTER = (
    ("--for 10s", "--for 0.5s"),
    ("--for 12s", "--for 5s"),
    ("sleep 3", "sleep 1"),
    ("--rate 10000 ", "--rate 1000 "),
    ("400 for 3s, 100 for 9s", "400 for 0.3s, 100 for 0.5s"),
    (r"for rate in (\d+) .* (\d+); do", r"for rate in \1 \2; do"),
)
PAGE_S = 540.0
EXAMPLES = ("shop", "shop-sharded", "shop-services", "django_site")
_LEFTOVERS = shutil.ignore_patterns("__pycache__", "*.sqlite3*", "media", ".headway")
# Only what runs has a folder to be taken down by.
_GUARD = """
import os, subprocess, sys
sys.stdin.read()
for place in sys.argv[1].split(":"):
    state, _, run = place.partition("=")
    if os.path.exists(run):
        subprocess.run([*sys.argv[2:], "down", "--state", state], capture_output=True)
"""
_MARK = "\x1e"


@dataclass(frozen=True, slots=True)
class Ran:
    """A step, what it printed, its exit status, and what was printed while the same job was in the background."""

    step: Step
    output: tuple[str, ...]
    status: int
    meanwhile: tuple[str, ...] = ()


def run_page(page: Path, folder: Path) -> list[Ran]:
    """Run all steps of `page` in `folder`; AssertionError when the shell does not come to its end in time."""
    ports = {port: str(free_port()) for port in PORTS}
    states = [folder / ".headway"]
    for name in EXAMPLES:
        place = folder / "examples" / name
        shutil.copytree(ROOT / "examples" / name, place, ignore=_LEFTOVERS)
        states.append(place / ".headway")
        declaration = place / "headway.toml"
        declaration.write_text(_moved(declaration.read_text(), ports))
    for name, text in files(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_moved(text, ports))
    wanted = steps(page)
    script = "exec 2>&1\n" + "".join(
        f"printf '{_MARK}{number} '\n{_quick(_moved(step.command, ports))}\nprintf '{_MARK}= %s\\n' $?\n"
        for number, step in enumerate(wanted)
    )
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}
    env.pop("VIRTUAL_ENV", None)
    guard = subprocess.Popen(
        [sys.executable, "-c", _GUARD, ":".join(f"{state}={folders_for(state).run}" for state in states), *HEADWAY],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=PAGE_S)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, 9)
        said = shell.communicate()[0]
        raise AssertionError(f"not at the end of the page after {PAGE_S:.0f} s:\n{said[-3000:]}") from None
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(240)
    for state in states:
        assert not folders_for(state).run.exists(), f"the page leaves a system running: {state}"
    return taken_apart(_back(said, ports), wanted)


def _moved(text: str, ports: dict[str, str]) -> str:
    for port, free in ports.items():
        text = re.sub(rf"(?<!\d){port}(?!\d)", free, text)
    return text


def _back(text: str, ports: dict[str, str]) -> str:
    for port, free in ports.items():
        text = text.replace(free, port)
    return text


def _quick(command: str) -> str:
    for slow, fast in FASTER:
        command = re.sub(slow, fast, command)
    return command


def taken_apart(said: str, wanted: Sequence[Step]) -> list[Ran]:
    """What the shell of a page printed, by step."""
    found: list[Ran] = []
    beside: int | None = None  # the step that began a job in the background
    for number, step in enumerate(wanted):
        match = re.search(rf"{_MARK}{number} (.*?){_MARK}= (\d+)\n", said, re.DOTALL)
        assert match is not None, f"line {step.line} was not reached: {step.command}\n{said[-3000:]}"
        found.append(Ran(step, tuple(line.rstrip() for line in match[1].splitlines()), int(match[2])))
        if beside is None and step.command.endswith(" &"):
            beside = number
        if beside is not None and re.fullmatch(r"wait( \S+)?", step.command):
            told = tuple(line for ran in found[beside:] for line in ran.output)
            found[beside:] = [replace(ran, meanwhile=told) for ran in found[beside:]]
            beside = None
    return found


def shape(line: str) -> str:
    """A line without what differs from run to run and machine to machine: times, numbers, ids, paths, bars, gaps."""
    line = re.sub(r"\b\d\d:\d\d:\d\d\b", "TIME", line.rstrip())
    line = re.sub(r"[0-9a-f]{32}", "ID", line)
    line = re.sub(r"(?<![\w:/.])/[\w.-][\w./-]*", "PATH", line)
    line = re.sub(r"[░█]+", "BAR", line)
    line = re.sub(r"\d+(?:[.,]\d+)*", "#", line)
    line = re.sub(r"# (?:ms|s|min)\b|–", "# T", line)
    line = re.sub(r"# (?:KiB|MiB|GiB|B)\b", "# SIZE", line)
    return re.sub(r"\s+", " ", line).strip()
