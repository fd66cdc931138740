"""The commented example and the generated reference say what the code does."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from headway.declaration.keys import SECTIONS, fields_of, matches
from headway.declaration.load import load
from headway.declaration.reference import main, reference_markdown
from headway.model.declared import ReplicaRange

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "headway.toml"


def test_the_example_loads_where_its_files_are_there(folder) -> None:
    folder.write("headway.toml", EXAMPLE.read_text())
    for name in ("certs/shop.pem", "certs/shop.key", "secrets/stripe", "secrets/valkey", "schema.sql", "orders.sql"):
        folder.write(name)
    for name in ("static/a.css", "alembic.ini", "manage.py"):
        folder.write(name)
    (folder.path / "migrations").mkdir()
    (folder.path / ".venv" / "bin").mkdir(parents=True)
    (folder.path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    environment = {
        "SECRET_KEY": "x",
        "ARCHIVE_URL": "postgresql://archive@db.example.com/archive",
        "REDIS_URL": "redis://h",
    }
    loaded = load(None, cwd=folder.path, environment=environment)
    assert loaded.warnings == ()
    assert set(loaded.system.services) == {"web", "mailer"}
    assert loaded.system.services["web"].uses == ("main", "hot")


def test_the_example_shows_every_key() -> None:
    document = tomllib.loads(EXAMPLE.read_text())
    for section in SECTIONS:
        tables = [table for _, table in matches(document, section) if isinstance(table, dict)]
        shown = {key for table in tables for key in table}
        assert shown == set(fields_of(section)), section


def test_the_reference_is_current() -> None:
    current = (ROOT / "docs" / "reference" / "declaration.md").read_text()
    assert current == reference_markdown(), "run: python -m headway.declaration.reference"


def test_the_references_examples_are_declarations(folder) -> None:
    # All at once, with only what they name beside them; a range of replicas stands where their number stood.
    folder.write("schema.sql")
    for name in ("certs/shop.pem", "certs/shop.key", "static/a.css", "src/shop.py", ".venv/bin/python"):
        folder.write(name).chmod(0o755)
    (folder.path / "migrations").mkdir()
    blocks = re.findall(r"```toml\n(.*?)```", reference_markdown(), re.DOTALL)
    assert len(blocks) == len(SECTIONS)
    everything = "\n".join([*blocks, "[databases.old]"])
    assert "\nreplicas = 2\n" in everything
    everything = everything.replace("\nreplicas = 2\n", "\n")
    environment = {"DATABASE_URL": "postgresql://u@h/d"}
    web = folder.load(everything, environment).system.services["web"]
    assert web.slo_s == 0.25
    assert web.replicas == ReplicaRange(min=2, max=16)


def test_the_reference_can_be_written_and_checked(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    assert main(["--check"]) == 1
    assert "hint: python -m headway.declaration.reference" in capsys.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
