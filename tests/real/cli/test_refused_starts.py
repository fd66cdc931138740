"""What cannot be started is refused in a sentence and a hint; nothing is left running, no file changes."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from command_place import GOOD, Place, bound_by_modes_and_limits, few_descriptors, take_apart
from harness import HEADWAY, Running, wait_for

LIFESPAN = """
import asyncio
from contextlib import asynccontextmanager
from starlette.applications import Starlette
@asynccontextmanager
async def lifespan(app):
    BODY
    yield
app = Starlette(lifespan=lifespan)
"""


# -- the app ----------------------------------------------------------------------------------------------------------


def test_a_module_that_does_not_import_shows_its_own_frames(place: Place) -> None:
    place.write({"shop.py": "import prices\n", "prices.py": "def load():\n    return 1 / 0\nload()\n"})
    place.declare('app = "shop:app"')
    found = place.refused("up")
    assert found.error == "services.web: importing shop failed: ZeroDivisionError: division by zero"
    assert found.hint == "mend the app; the traceback is the app's own"
    frames = [line.strip() for line in found.before.splitlines() if line.strip().startswith("File ")]
    assert [(frame.split('"')[1], frame.rsplit(" ", 1)[1]) for frame in frames] == [
        (str(place.folder / "shop.py"), "<module>"),
        (str(place.folder / "prices.py"), "<module>"),
        (str(place.folder / "prices.py"), "load"),
    ]
    assert found.before.splitlines()[-1] == "ZeroDivisionError: division by zero"
    place.assert_nothing_left()


@pytest.mark.parametrize(
    ("target", "error", "hint"),
    [
        ("absent:app", "services.web: there is no module 'absent' in ", 'app = "module:attribute"'),
        ("needy:app", "services.web: importing needy failed: no module named 'nosuchlib'", " -m pip install "),
        ("good:application", "services.web: good has no attribute 'application'", "did you mean good:app?"),
        ("good:value", "services.web: good:value is of type int, not an app", "name the ASGI or WSGI object itself"),
        ("good:one", "services.web: good:one is callable, but neither as ASGI", 'interface = "asgi" or "wsgi"'),
        ("good:make", "services.web: good:make takes no arguments: it looks like a factory", 'app = "good:make()"'),
        ("good:broken()", "services.web: good:broken() raised KeyError: 'SETTING'", "mend the factory"),
    ],
)
def test_what_is_no_app(place: Place, target: str, error: str, hint: str) -> None:
    more = "value = 3\ndef one(a): ...\ndef make(): return app\ndef broken(): return {}['SETTING']\n"
    place.write({"good.py": GOOD + more, "needy.py": "import nosuchlib\n"})
    place.declare(f'app = "{target}"')
    found = place.refused("up", "--detach")
    assert found.error.startswith(error)
    assert hint in found.hint
    place.assert_nothing_left()


def test_a_start_up_that_raises_shows_the_apps_traceback(place: Place) -> None:
    place.write({"slow.py": LIFESPAN.replace("BODY", 'raise RuntimeError("no queue at 10.0.0.1")')})
    place.declare('app = "slow:app"')
    found = place.refused("up", "--detach")
    assert found.error == "services.web: the app's start-up failed: RuntimeError: no queue at 10.0.0.1"
    assert found.hint == "mend the app's start-up; the traceback is the app's own"
    assert str(place.folder / "slow.py") in found.before
    place.assert_nothing_left()


def test_a_start_up_that_never_ends(place: Place) -> None:
    place.write({"slow.py": LIFESPAN.replace("BODY", "await asyncio.sleep(1000)")})
    place.declare('app = "slow:app"\nstart_timeout = "1s"')
    found = place.refused("up", "--detach")
    assert found.error == "services.web: start-up did not end within 1 s"
    assert 'start_timeout = "2s"' in found.hint
    place.assert_nothing_left()


def test_an_interpreter_without_granian(place: Place, bare_python: str) -> None:
    place.declare(f'app = "good:app"\npython = "{bare_python}"')
    found = place.refused("up", "--detach")
    assert found.error.startswith(f"services.web: {bare_python} cannot import granian 2.7 or newer")
    assert found.hint == f'{bare_python} -m pip install "granian>=2.7,<3"'
    place.assert_nothing_left()


# -- the machine: refused before anything is made ---------------------------------------------------------------------


def test_a_port_in_use_says_by_what(place: Place) -> None:
    place.declare('app = "good:app"')
    with socket.create_server(("127.0.0.1", place.port)):
        found = place.refused("up")
    assert found.error.startswith(f"edge.bind: 127.0.0.1:{place.port} is in use by ")
    assert found.error.endswith(f"(pid {os.getpid()})")
    assert "stop that program" in found.hint
    place.assert_nothing_made()


def test_a_port_of_another_system_says_of_which(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "mein büro"
    other.mkdir()
    (other / "good.py").write_text(GOOD)
    declaration = '[edge]\nbind = ["127.0.0.1:$PORT"]\n[services.web]\napp = "good:app"\nreplicas = 1\n'
    with Running(other, declaration, port=place.port) as system:
        done = system.run("up", "--reload")
        assert done.returncode == 1
        assert "error: the system runs already, and without --reload\nhint: headway down" in done.stderr
        place.declare('app = "good:app"')
        found = place.refused("up")
        assert f"in use by another Headway system (pid {system.pid('supervisor')}, " in found.error
        assert found.hint.startswith(
            f"headway down --state {shlex.quote(str(system.state))}, or choose another address"
        )
    place.assert_nothing_made()


def test_an_address_that_is_not_ours(place: Place) -> None:
    place.declare('app = "good:app"', 'bind = ["127.0.0.1:$PORT", "203.0.113.7:$PORT"]')
    found = place.refused("up")
    assert found.error == f"edge.bind: 203.0.113.7:{place.port} is not an address of this machine"
    assert "ip address" in found.hint
    place.assert_nothing_made()


def test_a_certificate_that_does_not_match_its_key(place: Place) -> None:
    authority = trustme.CA()
    authority.issue_cert("shop.test").cert_chain_pems[0].write_to_path(str(place.folder / "shop.pem"))
    authority.issue_cert("other.test").private_key_pem.write_to_path(str(place.folder / "other.key"))
    tls = '\ntls = { certificate = "shop.pem", key = "other.key" }'
    place.declare('app = "good:app"', 'bind = ["127.0.0.1:$PORT"]' + tls)
    found = place.refused("up")
    assert "shop.pem and the key" in found.error
    assert found.error.endswith("do not belong together")
    assert "requested with" in found.hint
    place.assert_nothing_made()


def test_too_few_descriptors(place: Place) -> None:
    place.declare('app = "good:app"')
    found = place.refused("up", before=few_descriptors)
    assert found.error == "a process may open only 256 files and sockets here; 2,048 is the least"
    assert "ulimit -n 65536" in found.hint
    place.assert_nothing_made()


def test_a_folder_that_is_read_only(place: Place) -> None:
    # Root is bound by modes too in a program that lost the right to pass them over.
    place.declare('app = "good:app"')
    place.folder.chmod(0o555)
    found = place.refused("up", before=bound_by_modes_and_limits)
    assert found.error == f"the folder {place.folders.state} cannot be created: Permission denied"
    assert "--state DIR" in found.hint
    place.assert_nothing_made()


# -- the declaration --------------------------------------------------------------------------------------------------


def test_ten_mistakes_are_told_at_once(place: Place) -> None:
    text = (Path(__file__).parents[2] / "unit" / "declaration" / "ten_mistakes.toml").read_text()
    place.write({"headway.toml": text})
    found = place.refused("up")
    assert found.error == "headway.toml: 11 problems"
    paths = [line.split(":")[0].strip() for line in found.problems.splitlines() if not line.startswith("    ")]
    assert {"edge.bind[0]", "services.web.app", "services.web.thread", "services.api.routes[0]"} <= set(paths)
    assert len(paths) == 11
    assert found.problems.count("    hint: ") == 11
    place.assert_nothing_made()


def test_secrets_that_are_missing(place: Place) -> None:
    place.declare('app = "good:app"\nenv = { KEY = "{env.SHOP_KEY}", STRIPE = "{file.secrets/stripe}" }')
    found = place.refused("up")
    assert found.error == "headway.toml: 2 problems"
    assert "services.web.env.KEY: environment variable SHOP_KEY is not set" in found.problems
    assert "services.web.env.STRIPE: file secrets/stripe is missing" in found.problems
    place.assert_nothing_made()


# -- two at once ------------------------------------------------------------------------------------------------------


def test_two_starts_at_once_make_one_system(place: Place) -> None:
    place.write({"slow.py": "import time\ntime.sleep(0.7)\n" + GOOD})
    place.declare('app = "slow:app"')
    command = [*HEADWAY, "up", "--detach"]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, cwd=place.folder, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    done = []
    for process in both:
        stdout, stderr = process.communicate(timeout=120)
        done.append(subprocess.CompletedProcess(command, process.returncode, stdout, stderr))
    try:
        assert sorted(one.returncode for one in done) in ([0, 0], [0, 1]), done
        for one in done:
            if one.returncode:
                assert take_apart(one).error in (
                    "another headway up is starting this system",
                    "another apply is in progress",
                )
        supervisors = place.headway("status", "--json")
        assert supervisors.returncode == 0
    finally:
        assert place.headway("down").returncode == 0
    place.assert_nothing_left()


def test_a_start_while_another_starts_is_refused(place: Place) -> None:
    place.write({"slow.py": "import time\ntime.sleep(30)\n" + GOOD})
    place.declare('app = "slow:app"')
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    place.folders.state.mkdir()
    lock = str(place.folders.state / "start.lock")
    with subprocess.Popen(
        [sys.executable, "-c", holder, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        wait_for(process.stdout.readline, 30, "the lock is held")
        found = place.refused("up")
        process.communicate("\n", timeout=60)
    assert found.error == "another headway up is starting this system"
    assert found.hint == "wait for it: headway status --watch"
    assert not (place.folders.state / "applied.json").exists()
