"""Real databases and caches for an app's tests with pytest, and stand-ins for the services that it calls:
`pytest_plugins = ["headway.testing"]` in the outermost conftest.py.

What `headway.toml` declares of them is made once a run, on a PostgreSQL and Valkeys of the run's own, and their
addresses are in the environment before the app is imported. The fixture `databases` gives a test all databases anew, as
copies. Every test begins with empty caches, and with services that nobody has called; `services` says what they answer.
One server has all shards of a database; each process of pytest-xdist has servers of its own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from headway.declaration.load import load, report
from headway.declaration.references import resolve_those_known
from headway.errors import DeclarationError, HeadwayError
from headway.model.sharding import RUN_VARIABLE
from headway.process.linux import is_same, start_ticks
from headway.testing.caches import Caches
from headway.testing.databases import Databases
from headway.testing.services import Services
from headway.testing.stand_in import StandIn

_PREFIX = "headway-test-"
_ENGINES = pytest.StashKey["_Engines"]()


def pytest_configure(config: pytest.Config) -> None:
    """Bring the engines up, before anything of the app is imported."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return  # pytest-xdist: each of its processes has its own
    try:
        found = config.stash[_ENGINES] = _Engines(config.rootpath)
        found.start()
    except HeadwayError as error:
        told = report(error) if isinstance(error, DeclarationError) else f"{error.message}\nhint: {error.hint}"
        raise pytest.UsageError(told) from None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take them down."""
    if (found := config.stash.get(_ENGINES, None)) is not None:
        found.stop()


@pytest.fixture
def databases(pytestconfig: pytest.Config) -> Iterator[Mapping[str, str]]:
    """The declared databases as they are at the start, without rows of other tests; their URLs by name."""
    found = pytestconfig.stash[_ENGINES].databases
    found.renew()
    yield found.urls
    found.let_go()


@pytest.fixture(autouse=True)
def caches(pytestconfig: pytest.Config) -> Mapping[str, str]:
    """The declared caches, which are empty; their URLs by name. Also tests that do not ask for it begin so: what one
    test has had cached is not to be found by the next."""
    found = pytestconfig.stash[_ENGINES].caches
    found.clear()
    return found.urls


@pytest.fixture(autouse=True)
def services(pytestconfig: pytest.Config) -> Iterator[Mapping[str, StandIn]]:
    """A stand-in for each service that another one calls, by name. A call that is given no answer fails the test."""
    found = pytestconfig.stash[_ENGINES].services
    found.renew()
    yield found.all
    complaints = found.complaints()
    found.renew()
    if complaints:
        pytest.fail(complaints, pytrace=False)


class _Engines:
    """What a run has to itself: a folder, its databases, its caches, stand-ins for services."""

    def __init__(self, root: Path) -> None:
        self._loaded = load(None, cwd=root, environment=os.environ)
        self._folder = Path()
        self._before: dict[str, str | None] = {}
        self.databases = Databases(self._loaded)
        self.caches = Caches(self._loaded)
        self.services = Services(self._loaded.system)

    def start(self) -> None:
        """Everything that the first test needs."""
        _clear_away_what_was_killed()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-{start_ticks(os.getpid())}-")).resolve()
        try:
            self._folder.chmod(0o711)  # the engines' user must be able to enter it
            (app := self._folder / "app").mkdir()
            if self._loaded.system.databases:
                self.databases.start(self._folder)
            self.caches.start(self._folder)
            self.services.start(self._folder)
            self._tell(app)
            if self._loaded.system.databases:
                self.databases.make_models()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the servers; nothing of them stays."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self.databases.stop()
        self.caches.stop()
        self.services.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tell(self, app: Path) -> None:
        """As `headway up` would: in the environment."""
        fields = {**self.databases.fields(), **self.caches.fields(), **self.services.fields()}
        env = {RUN_VARIABLE: str(app), **self.databases.told(), **self.caches.told(), **self.services.told()}
        for service in self._loaded.system.services.values():
            known = resolve_those_known(service.env, fields, os.environ, self._loaded.root)
            env = {**known, **env}
        if self.databases.plain_url is not None:
            env.setdefault("DATABASE_URL", self.databases.plain_url)
        self._before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)


def _clear_away_what_was_killed() -> None:
    """Folders of runs that are over: their servers have ended with them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid, _, rest = folder.name.removeprefix(_PREFIX).partition("-")
        ticks = rest.partition("-")[0]
        if pid.isdigit() and ticks.isdigit() and not is_same(int(pid), int(ticks)):
            shutil.rmtree(folder, ignore_errors=True)
