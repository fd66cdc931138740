"""Which source file was written last: what counts as source of an app, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

from headway.declaration.edited import last_edited


def write(path: Path, at_s: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    os.utime(path, (at_s, at_s))


def test_the_newest_source_is_found_wherever_it_lies(tmp_path: Path) -> None:
    assert last_edited(tmp_path) is None
    write(tmp_path / "app.py", 1_000)
    write(tmp_path / "shop" / "templates" / "page.html", 2_000)
    assert last_edited(tmp_path) == ("shop/templates/page.html", 2_000)
    write(tmp_path / "shop" / "web.py", 3_000)
    assert last_edited(tmp_path) == ("shop/web.py", 3_000)


def test_what_is_no_source_of_the_app_does_not_count(tmp_path: Path) -> None:
    write(tmp_path / "app.py", 1_000)
    for name in (".headway/a.py", ".venv/b.py", "node_modules/c.py", "tests/test_d.py", "data.json", "own/pyvenv.cfg"):
        write(tmp_path / name, 9_000)
    write(tmp_path / "own" / "lib.py", 9_000)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    assert last_edited(tmp_path) == ("app.py", 1_000)
