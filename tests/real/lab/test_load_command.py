"""`headway load` as a process: schedules, several requests, a report, a terminal, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import ssl
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness import HEADWAY, Running, wait_for

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
COMMAND_S = 120.0
APP = """
import asyncio
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await asyncio.sleep(0.02)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""
SYSTEM = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "hello:app"
replicas = 1
"""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HEADWAY, "load", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=COMMAND_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def measured(folder: Path, *arguments: str) -> dict[str, Any]:
    """The document of a load that succeeded; nothing else may be said."""
    done = command(folder, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    document: dict[str, Any] = json.loads(line)
    return document


def refused(folder: Path, *arguments: str) -> tuple[str, str]:
    """Error and hint of a load that was refused."""
    done = command(folder, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert hint.startswith("hint: ")
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


@pytest.mark.alone
def test_a_schedule_and_its_pieces(origin: Any, fixed: Any, tmp_path: Path) -> None:
    server = origin(fixed(OK))
    document = measured(
        tmp_path, server.url, "--schedule", "40 for 500ms, 200 for 500ms", "--schedule", "0..100 for 1s",
        "--arrivals", "constant",
    )  # fmt: skip
    assert document["offered"] == document["ok"] == len(server.seen) == 170
    assert [(piece["name"], piece["offered"]) for piece in document["pieces"]] == [
        ("40/s for 500 ms", 20),
        ("200/s for 500 ms", 100),
        ("0..100/s for 1 s", 50),
    ]
    assert [piece["start_s"] for piece in document["pieces"]] == [0, 0.5, 1]
    assert document["duration_s"] == 2.0
    assert all(piece["latency_ms"]["p99"] > 0 for piece in document["pieces"])


@pytest.mark.alone
def test_kinds_of_requests_with_weights_headers_and_bodies(origin: Any, tmp_path: Path) -> None:
    async def answer(seen: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK if seen.path != "/cart" else b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        return True

    server = origin(answer)
    (tmp_path / "order.json").write_text('{"n": 1}')
    (tmp_path / "mix.toml").write_text('[[request]]\nsend = "PUT /own"\nbody = "its own"\n')
    arguments = (
        server.url, "--rate", "200", "--for", "0.5s", "--arrivals", "constant", "--request", "/ x7", "--request",
        "POST /cart x2", "--requests", "mix.toml", "--body", "@order.json", "--header", "X-A: b",
    )  # fmt: skip
    document = measured(tmp_path, *arguments)
    counts = {part["name"]: (part["offered"], part["ok"], part["refused"]) for part in document["requests"]}
    assert counts == {"GET /": (70, 70, 0), "POST /cart": (20, 0, 20), "PUT /own": (10, 10, 0)}
    bodies = Counter((seen.method, seen.path, seen.body) for seen in server.seen)
    assert bodies == {("GET", "/", b""): 70, ("POST", "/cart", b'{"n": 1}'): 20, ("PUT", "/own", b"its own"): 10}
    text = command(tmp_path, *arguments).stdout
    assert re.search(r"^  POST /cart +20 +0\.0/s +0 +20 +0 +– +–$", text, re.MULTILINE), text


@pytest.mark.alone
def test_a_report_is_one_file_that_needs_no_other(origin: Any, fixed: Any, tmp_path: Path) -> None:
    server = origin(fixed(OK))
    done = command(
        tmp_path, server.url, "--rate", "100", "--for", "1s", "--slo", "250ms", "--report", "out.html",
        "--header", "Authorization: Bearer abc123",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"report: {tmp_path}/out.html\n"
    page = (tmp_path / "out.html").read_text()
    assert page.count("<figure>") == 2
    assert f"headway load {server.url} --rate 100 --for 1s --slo 250ms" in page
    assert "Bearer" not in page
    assert not re.search(r"<script|<link|<img|src=|@import", page)


@pytest.mark.alone
def test_the_report_of_the_own_system_shows_its_inside(tmp_path: Path) -> None:
    home = tmp_path / "site"
    home.mkdir()
    (home / "hello.py").write_text(APP)
    with Running(home, SYSTEM) as system:
        arguments = ("load", f"{system.url}/", "--rate", "50", "--for", "1.5s", "--report")
        system.ok(*arguments, "own.html")
        page = (home / "own.html").read_text()
        assert "In flight of each replica" in page
        assert re.search(r"<title>web\.1 at [\d.]+: \d+</title>", page)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        assert command(elsewhere, *arguments[1:], "far.html").returncode == 0
        assert "In flight" not in (elsewhere / "far.html").read_text()
        assert command(elsewhere, *arguments[1:], "far.html", "--state", str(system.state)).returncode == 0
        assert "In flight of each replica" in (elsewhere / "far.html").read_text()


@pytest.mark.alone
def test_on_a_terminal_it_draws_and_clears(origin: Any, fixed: Any, tmp_path: Path) -> None:
    server = origin(fixed(OK))
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        [*HEADWAY, "load", server.url, "--rate", "100", "--for", "1.3s"],
        cwd=tmp_path, env=env, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        drawn = b""
        while True:
            try:
                got = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not got:
                break
            drawn += got
        assert process.stdout is not None
        said = process.stdout.read().decode()
        assert process.wait(COMMAND_S) == 0
    os.close(ours)
    assert "in flight" in drawn.decode()
    assert "▁" in drawn.decode() or "█" in drawn.decode()
    assert drawn.decode().count("so far") <= 6  # twice a second, and once more when it ends
    assert said.startswith("  offered")
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("arguments", "words", "remedy"),
    [
        ((), "how many requests a second", "--rate 100"),
        (("--rate", "5", "--schedule", "5 for 1s"), "a schedule says rate and duration", "leave out"),
        (("--schedule", "5 per 1s"), '"5 per 1s" is no piece', "1000 for 3s"),
        (("--schedule", "0 for 1s"), "rate above 0", "100 for 10s"),
        (("--schedule", "5 for 1s", "--arrivals", "burst"), "a burst", "leave out"),
        (("--rate", "1e9"), "more than one load keeps", "lower the rate"),
        (("--rate", "fast"), "fast", "--help"),
        (("--rate", "5", "--request", "cart"), '"cart" is no request', "POST /cart x2"),
        (("--rate", "5", "--requests", "none.toml"), "none.toml cannot be read", "path"),
        (("--rate", "5", "--method", "POST", "--body", "@none"), "none cannot be read: No such file", "path"),
        (("--rate", "5", "--body", "a"), "no request that carries one (GET)", "--method POST"),
        (("--rate", "5", "--header", "A"), '"A" is no header', "Accept"),
        (("--rate", "5", "--header", "Host: a"), "set by the load itself", "leave it out"),
        (("--rate", "5", "--report", "no/such/folder.html"), "cannot be written: No such file", "folder"),
        (("--rate", "5", "--report", "."), "cannot be written: Is a directory", "file"),
        (("--rate", "5", "--state", "nowhere"), "--state is for the plots", "--report"),
        (("--rate", "5", "--report", "r.html", "--state", "nowhere"), "nothing runs here", "headway up"),
        (("--rate", "5", "--ca", "none.pem"), None, None),  # not asked for without TLS
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_first_request(
    origin: Any, fixed: Any, tmp_path: Path, arguments: tuple[str, ...], words: str | None, remedy: str | None
) -> None:
    server = origin(fixed(OK))
    if words is None or remedy is None:
        assert measured(tmp_path, server.url, *arguments, "--for", "0.2s")["failed"] == 0
        return
    error, hint = refused(tmp_path, server.url, *arguments)
    assert words in error
    assert remedy in hint
    assert server.seen == []
    assert list(tmp_path.iterdir()) == []


def test_figures_are_told_before_the_report_that_cannot_be_written(origin: Any, fixed: Any, tmp_path: Path) -> None:
    done = command(tmp_path, origin(fixed(OK)).url, "--rate", "50", "--for", "0.2s", "--report", "/dev/full", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"] == 0
    assert "/dev/full cannot be written: No space left" in done.stderr


def test_a_closed_port(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take the port meanwhile
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/"
        error, hint = refused(tmp_path, url, "--rate", "5", "--report", "r.html")
    assert "nothing listens on" in error
    assert "headway up" in hint
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_that_nobody_vouches_for(origin: Any, fixed: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    server = origin(fixed(OK), tls=context)
    error, hint = refused(tmp_path, server.url, "--rate", "5")
    assert "certificate that cannot be trusted" in error
    assert "--ca" in hint
    assert "--insecure" in hint
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert measured(tmp_path, server.url, "--rate", "20", "--for", "0.5s", "--ca", "ca.pem")["failed"] == 0


@pytest.mark.alone
def test_a_rate_that_it_cannot_make_is_its_own_fault_in_every_report(origin: Any, fixed: Any, tmp_path: Path) -> None:
    server = origin(fixed(OK))
    asked = (server.url, "--rate", "60000", "--for", "0.3s", "--deadline", "100ms", "--report", "fast.html")
    done = command(tmp_path, *asked, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["offered"] == pytest.approx(18_000, rel=0.05)
    generator = document["generator"]
    assert generator["bottleneck"]
    assert generator["made_per_s"] < 50_000
    words = "Careful: the load generator itself was the bottleneck"
    assert words in (tmp_path / "fast.html").read_text()
    assert words in command(tmp_path, *asked).stdout


def at_a_terminal() -> None:
    """For `preexec_fn`: SIGINT counts, also where these tests themselves run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_measured_until_it_was_interrupted_is_told(
    origin: Any, tmp_path: Path, number: signal.Signals
) -> None:
    async def answer(seen: Any, writer: asyncio.StreamWriter) -> bool:
        if seen.number % 10 == 9:
            await seen.hang()
        writer.write(OK)
        return True

    server = origin(answer)
    asked = ("--schedule", "100 for 20s, 10 for 20s", "--arrivals", "constant", "--report", "r.html", "--json")
    with subprocess.Popen(
        [*HEADWAY, "load", server.url, *asked],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=at_a_terminal,
    ) as process:  # fmt: skip
        try:
            wait_for(lambda: len(server.seen) >= 100, 30, "100 requests")
            process.send_signal(number)
            said, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.startswith("interrupted after ")
    assert "Traceback" not in errors
    document = json.loads(said.splitlines()[-1])
    assert 80 <= document["offered"] == document["ok"] <= len(server.seen)
    assert 0.9 < document["duration_s"] < 3
    assert document["goodput_per_s"] == pytest.approx(90, rel=0.1)
    assert sum(second["offered"] for second in document["timeline"]) == document["offered"]
    assert sum(part["offered"] for part in document["pieces"]) == document["offered"]
    assert "offered" in (tmp_path / "r.html").read_text()


def test_a_load_that_had_not_begun_has_nothing_to_tell(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"  # the handshake is never answered
        with subprocess.Popen(
            [*HEADWAY, "load", url, "--rate", "5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=at_a_terminal,
        ) as process:  # fmt: skip
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                said, errors = process.communicate(timeout=60)
            assert (said.strip(), errors.strip()) == ("", "")
    assert process.returncode == 130
