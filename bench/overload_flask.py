"""The app of the overload benchmark for Flask: 2 ms of processor time and 10 ms of waiting, in a thread."""

from __future__ import annotations

import os
import time

from flask import Flask

app = Flask(__name__)


def _burn(cpu_s: float) -> None:
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


@app.get("/")
@app.get("/<path:_path>")
def paced(_path: str = "") -> str:
    _burn(0.001)
    time.sleep(0.010)
    _burn(0.001)
    return str(os.getpid())
