"""How each stack is started, by its own usual means: one worker process behind one balancer on a loopback port.

Every stack is started afresh for each measurement and ended after it. `balancer_pids` name the processes whose
processor time is the balancer's.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from headway.edge.haproxy import find_haproxy
from headway.process.folders import folders_for

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack."""

    url: str
    balancer_pids: tuple[int, ...]
    worker_pids: tuple[int, ...]


def _die_with_parent() -> None:
    _libc.prctl(1, signal.SIGTERM)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def spawn(*argv: str, cwd: Path = HERE) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and with this process."""
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_die_with_parent,
    )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def await_answer(url: str) -> None:
    """Until a server answers 200 there; RuntimeError after 30 s."""
    until_s = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        if time.monotonic() > until_s:
            raise RuntimeError(f"{url} does not answer")
        time.sleep(0.05)


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid:
                    found += family(int(entry))
    return found


@contextmanager
def _granian(folder: Path, app: str) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """The worker that stands behind HAProxy and nginx by hand: granian with one worker on a unix socket."""
    path = folder / "worker.sock"
    with spawn(
        str(BIN / "granian"),
        "--interface",
        "asgi",
        "--uds",
        str(path),
        "--workers",
        "1",
        "--backlog",
        "4096",
        "--backpressure",
        "16384",
        "--http",
        "1",
        f"{app}:app",
    ) as process:
        yield path, process


@contextmanager
def headway(app: str, declaration: str = "") -> Iterator[Stack]:
    """Headway as its user starts it, with one replica."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        shutil.copy(HERE / f"{app}.py", folder)
        (folder / "headway.toml").write_text(
            f'[edge]\nbind = ["127.0.0.1:{port}"]\n[services.web]\napp = "{app}:app"\nreplicas = 1\n{declaration}'
        )
        with spawn(sys.executable, "-m", "headway.cli.main", "up", cwd=folder):
            await_answer(f"http://127.0.0.1:{port}/warm")
            record = json.loads((folders_for(folder / ".headway").run / "processes.json").read_text())
            pids = {entry["name"]: entry["pid"] for entry in record["processes"]}
            yield Stack(
                f"http://127.0.0.1:{port}/",
                (pids["edge"],),
                (pids["web.1"],),
            )


_HAPROXY = """
global
    maxconn 20000
    no strict-limits
    nbthread 1
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout queue 60s
    option forwardfor
    http-reuse always
frontend public
    bind 127.0.0.1:{port}
    default_backend web
backend web
    balance leastconn
    server one unix@{socket} check maxconn 2048
"""


@contextmanager
def haproxy(app: str) -> Iterator[Stack]:
    """HAProxy → granian, configured by hand in a few lines."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, port = Path(name), free_port()
        worker, granian = stack.enter_context(_granian(folder, app))
        config = folder / "haproxy.cfg"
        config.write_text(_HAPROXY.format(port=port, socket=worker))
        process = stack.enter_context(spawn(find_haproxy().path, "-db", "-f", str(config)))
        await_answer(f"http://127.0.0.1:{port}/warm")
        yield Stack(f"http://127.0.0.1:{port}/", (process.pid,), tuple(family(granian.pid)))


_NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    keepalive_requests 1000000;
    upstream web {{ server {upstream}; keepalive 64; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"""


@contextmanager
def behind_nginx(folder: Path, upstream: str, worker: subprocess.Popen[bytes]) -> Iterator[Stack]:
    """nginx before a worker that somebody else has started."""
    folder.chmod(0o755)
    port, config = free_port(), folder / "nginx.conf"
    head = "user root;\n" if os.geteuid() == 0 else ""  # as root it would drop to a user that cannot open the socket
    config.write_text(head + _NGINX.format(folder=folder, upstream=upstream, port=port))
    with spawn(shutil.which("nginx") or "nginx", "-p", str(folder), "-c", str(config)) as process:
        await_answer(f"http://127.0.0.1:{port}/warm")
        yield Stack(f"http://127.0.0.1:{port}/", tuple(family(process.pid)), tuple(family(worker.pid)))


@contextmanager
def nginx(app: str) -> Iterator[Stack]:
    """nginx → the same granian."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        worker, granian = stack.enter_context(_granian(folder, app))
        yield stack.enter_context(behind_nginx(folder, f"unix:{worker}", granian))


@contextmanager
def nginx_gunicorn(app: str) -> Iterator[Stack]:
    """nginx → gunicorn with one uvicorn worker."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        path = folder / "worker.sock"
        worker = stack.enter_context(
            spawn(
                str(BIN / "gunicorn"),
                "-k",
                "uvicorn_worker.UvicornWorker",
                "-w",
                "1",
                "--backlog",
                "4096",
                "-b",
                f"unix:{path}",
                f"{app}:app",
            )
        )
        yield stack.enter_context(behind_nginx(folder, f"unix:{path}", worker))


STACKS: dict[str, Callable[..., AbstractContextManager[Stack]]] = {
    "Headway": headway,
    "HAProxy → granian, by hand": haproxy,
    "nginx → granian": nginx,
    "nginx → gunicorn + uvicorn": nginx_gunicorn,
}
