"""Every example's declaration is accepted, without a warning, in an environment that has nothing set."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.declaration.load import load

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/headway.toml"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_example_is_a_valid_declaration(folder: Path) -> None:
    loaded = load(str(folder), cwd=folder, environment={})
    assert loaded.warnings == ()
    assert loaded.system.services["web"].routes == ("/",)
    system = loaded.system
    used = {name for service in system.services.values() for name in service.uses}
    private = {name for name, service in system.services.items() if not service.routes}
    assert used == private | set(system.databases) | set(system.caches), "what is declared is used"
