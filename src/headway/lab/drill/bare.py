"""The command that serves an app without Headway, with as many workers, as its own documentation has it. Pure."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BareServer:
    """A server by its name, and how to start it in the app's folder."""

    name: str
    argv: tuple[str, ...]


def bare_server(
    *, python: str, app: str, is_wsgi: bool, modules: Container[str], workers: int, threads: int, port: int
) -> BareServer:
    """uvicorn for ASGI, gunicorn with threads for WSGI; granian, which is always there, where they are not installed.

    `modules`: of these, what the app's interpreter has. `app` is `module:attribute` or `module:factory()`.
    """
    target, is_factory = app.removesuffix("()"), app.endswith("()")
    count, place = str(workers), f"127.0.0.1:{port}"
    if not is_wsgi and "uvicorn" in modules:
        argv = ["-m", "uvicorn", target, "--host", "127.0.0.1", "--port", str(port), "--workers", count]
        argv += ["--no-access-log", "--log-level", "warning", *(["--factory"] if is_factory else [])]
        return BareServer("uvicorn", (python, *argv))
    if is_wsgi and "gunicorn" in modules:
        argv = ["-m", "gunicorn", "--bind", place, "--workers", count, "--threads", str(threads), app]
        return BareServer("gunicorn", (python, *argv))
    argv = ["-m", "granian", "--interface", "wsgi" if is_wsgi else "asgi", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--workers", count, *(["--blocking-threads", str(threads)] if is_wsgi else [])]
    argv += ["--factory"] if is_factory else []
    return BareServer("granian", (python, *argv, target))
