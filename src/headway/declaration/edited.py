"""Which source file of an app was written last, to tell whether what runs was started before that.

Bounded as the search for an app is: a folder is somebody's home directory by mistake sooner or later.
"""

from __future__ import annotations

import os
from pathlib import Path

from headway.declaration.modules import DEPTH_MAX, ENTRIES_MAX, is_entered

SUFFIXES = (".py", ".html")


def last_edited(folder: Path) -> tuple[str, float] | None:
    """The newest source file, relative to the folder, and when it was written, in seconds since 1970; None without any.

    Of a folder with too many entries it is the newest of those that were seen.
    """
    newest: tuple[float, str] | None = None
    seen = 0
    for place, folders, names in os.walk(folder):
        seen += len(folders) + len(names)
        deep = len(Path(place).relative_to(folder).parts) >= DEPTH_MAX
        folders[:] = [] if deep else sorted(name for name in folders if is_entered(Path(place), name))
        for name in names:
            if name.endswith(SUFFIXES):
                path = os.path.join(place, name)
                try:
                    written = (os.stat(path).st_mtime, os.path.relpath(path, folder))
                except OSError:
                    continue  # it has gone meanwhile, or leads nowhere
                newest = written if newest is None else max(newest, written)
        if seen >= ENTRIES_MAX:
            break
    return (newest[1], newest[0]) if newest else None
