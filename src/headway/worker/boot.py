"""Starts what runs in the app's interpreter from a bare path: `python …/headway/worker/boot.py SETTINGS.json` a worker,
and with the name of a module in its place one of the app's own tools.

The script's folder must not stay on the import path, where its files would shadow the app's modules; so the package is
loaded under a name of its own, and the path is put right before anything else is imported.
"""

import importlib.util
import os
import sys

TOOLS = ("revisions", "django_migrations")


def _load(name: str) -> object:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    spec = importlib.util.spec_from_file_location(
        "headway_worker", os.path.join(here, "__init__.py"), submodule_search_locations=[here]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["headway_worker"] = package
    spec.loader.exec_module(package)
    return importlib.import_module(f"headway_worker.{name}")


if __name__ == "__main__":
    module = _load(sys.argv[1] if sys.argv[1] in TOOLS else "serve")
    sys.exit(module.main(sys.argv[1]))  # type: ignore[attr-defined]
