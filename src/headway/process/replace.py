"""Turns this process into another program: for commands whose terminal, signals and exit status must be its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence

from headway.errors import HeadwayError


def replace_process(command: Sequence[str], *, folder: str, env: Mapping[str, str]) -> int:
    """Never returns when it works. HeadwayError when the program is not found or the folder is gone."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise HeadwayError(
            f"{folder}: {error.strerror}", hint="check the service's folder in the declaration"
        ) from error
    program = shutil.which(command[0], path=env.get("PATH"))
    if program is None:
        raise HeadwayError(f"{command[0]} was not found", hint="is it installed for the service's interpreter?")
    os.execve(program, list(command), dict(env))
