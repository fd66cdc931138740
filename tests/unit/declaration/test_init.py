"""`init` finds the app of every framework by its source, and what it writes loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.declaration.discover import discover
from headway.declaration.load import load
from headway.declaration.starter import write_starter
from headway.errors import AppError, Conflict, MachineError

HERE = Path(__file__).parent
DJANGO_WSGI = "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
DJANGO_ASGI = "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n"

# name -> (files, target, folder, interface)
APPS: dict[str, tuple[dict[str, str], str, str, str]] = {
    "fastapi": ({"main.py": "from fastapi import FastAPI\napp = FastAPI()\n"}, "main:app", ".", "asgi"),
    "fastapi by module": (
        {"main.py": "import fastapi as f\napi: f.FastAPI = f.FastAPI(title='x')\n"},
        "main:api",
        ".",
        "asgi",
    ),
    "fastapi in a package": (
        {"app/__init__.py": "", "app/main.py": "from fastapi import FastAPI\nfrom app.db import x\napp = FastAPI()\n"},
        "app.main:app",
        ".",
        "asgi",
    ),
    "fastapi in a folder that the project imports": (
        {"app/main.py": "from fastapi import FastAPI\nfrom app.db import x\napp = FastAPI()\n", "app/db.py": "x = 1\n"},
        "app.main:app",
        ".",
        "asgi",
    ),
    "fastapi in a plain folder": (
        {"backend/main.py": "from fastapi import FastAPI\nimport db\napp = FastAPI()\n", "backend/db.py": ""},
        "main:app",
        "backend",
        "asgi",
    ),
    "fastapi in src": (
        {"src/shop/__init__.py": "", "src/shop/web.py": "from fastapi import FastAPI\napp = FastAPI()\n"},
        "shop.web:app",
        "src",
        "asgi",
    ),
    "fastapi with a mounted part": (
        {"main.py": "from fastapi import FastAPI\napi = FastAPI()\nsite = FastAPI()\nsite.mount('/api', api)\n"},
        "main:site",
        ".",
        "asgi",
    ),
    "fastapi of one's own class": (
        {"main.py": "from fastapi import FastAPI\nclass Shop(FastAPI):\n    pass\napp = Shop()\n"},
        "main:app",
        ".",
        "asgi",
    ),
    "fastapi in try": (
        {"main.py": "try:\n    from fastapi import FastAPI\n    app = FastAPI()\nexcept ImportError:\n    raise\n"},
        "main:app",
        ".",
        "asgi",
    ),
    "starlette": (
        {"app.py": "from starlette.applications import Starlette\napp = Starlette()\n"},
        "app:app",
        ".",
        "asgi",
    ),
    "litestar": ({"app.py": "from litestar import Litestar, get\napp = Litestar([])\n"}, "app:app", ".", "asgi"),
    "quart": ({"app.py": "from quart import Quart\napp = Quart(__name__)\n"}, "app:app", ".", "asgi"),
    "falcon asgi": ({"app.py": "import falcon.asgi\napp = falcon.asgi.App()\n"}, "app:app", ".", "asgi"),
    "falcon": ({"app.py": "import falcon\napp = falcon.App()\n"}, "app:app", ".", "wsgi"),
    "flask": ({"app.py": "from flask import Flask\napp = Flask(__name__)\n"}, "app:app", ".", "wsgi"),
    "flask factory": (
        {"flaskr/__init__.py": "from flask import Flask\ndef create_app(test_config=None):\n    return Flask('x')\n"},
        "flaskr:create_app()",
        ".",
        "wsgi",
    ),
    "flask factory called in wsgi.py": (
        {
            "shop/__init__.py": "from flask import Flask\ndef create_app():\n    return Flask('x')\n",
            "wsgi.py": "from shop import create_app\napp = create_app()\n",
        },
        "wsgi:app",
        ".",
        "",
    ),
    "a factory called where it is": (
        {"m.py": "from fastapi import FastAPI\ndef create_app():\n    return FastAPI()\napp = create_app()\n"},
        "m:app",
        ".",
        "asgi",
    ),
    "flask with a factory that wants arguments": (
        {
            "shop.py": "from flask import Flask\ndef create_app(config):\n    return Flask('x')\n",
            "serve.py": "from shop import create_app\napp = create_app('x')\n",
        },
        "serve:app",
        ".",
        "",
    ),
    "django": (
        {
            "manage.py": "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site1.settings')\n",
            "site1/__init__.py": "",
            "site1/settings.py": "DATABASES = {}\n",
            "site1/wsgi.py": DJANGO_WSGI,
            "site1/asgi.py": DJANGO_ASGI,
        },
        "site1.wsgi:application",
        ".",
        "wsgi",
    ),
    "django below, its settings in a plain folder": (
        {
            "web/manage.py": "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'config.settings')\n",
            "web/config/settings.py": "",
            "web/config/wsgi.py": DJANGO_WSGI,
        },
        "config.wsgi:application",
        "web",
        "wsgi",
    ),
    "django with channels": (
        {
            "s/__init__.py": "",
            "s/wsgi.py": DJANGO_WSGI,
            "s/asgi.py": "from channels.routing import ProtocolTypeRouter\napplication = ProtocolTypeRouter({})\n",
        },
        "s.asgi:application",
        ".",
        "asgi",
    ),
    "pyramid": (
        {"app.py": "from pyramid.config import Configurator\nc = Configurator()\napp = c.make_wsgi_app()\n"},
        "app:app",
        ".",
        "wsgi",
    ),
    "bottle": ({"app.py": "import bottle\napp = bottle.default_app()\n"}, "app:app", ".", "wsgi"),
    "dash": ({"app.py": "from dash import Dash\nimport dash\napp = dash.Dash()\n"}, "app:app.server", ".", "wsgi"),
    "bare wsgi": (
        {"hello.py": "def application(environ, start_response):\n    return []\n"},
        "hello:application",
        ".",
        "wsgi",
    ),
    "bare asgi": ({"hello.py": "async def app(scope, receive, send):\n    pass\n"}, "hello:app", ".", "asgi"),
    "bare asgi object": (
        {"hello.py": "class App:\n    async def __call__(self, scope, receive, send):\n        pass\nmy = App()\n"},
        "hello:my",
        ".",
        "asgi",
    ),
    "not the tests, the examples, or a virtual environment": (
        {
            "tests/main.py": "from fastapi import FastAPI\napp = FastAPI()\n",
            "examples/app.py": "from fastapi import FastAPI\napp = FastAPI()\n",
            "my-env/pyvenv.cfg": "",
            "my-env/app.py": "from fastapi import FastAPI\napp = FastAPI()\n",
            "broken.py": "def (:\n",
            "service.py": "from fastapi import FastAPI\nserver = FastAPI()\n",
        },
        "service:server",
        ".",
        "asgi",
    ),
    "not what only runs as a script": (
        {"a.py": "from flask import Flask\nsite = Flask('x')\nif __name__ == '__main__':\n    app = Flask('y')\n"},
        "a:site",
        ".",
        "wsgi",
    ),
    "not a middleware's class": (
        {
            "m.py": "class Slow:\n    def __init__(self, app):\n        self.app = app\n"
            "    async def __call__(self, scope, receive, send):\n        pass\n"
            "from starlette.applications import Starlette\nslow = Slow(None)\nraw = Starlette()\n"
        },
        "m:raw",
        ".",
        "asgi",
    ),
    "what wraps another": (
        {"m.py": "from starlette.applications import Starlette\nimport x\nraw = Starlette()\napp = x.Slow(raw)\n"},
        "m:app",
        ".",
        "",
    ),
    "what is wrapped at once": (
        {"m.py": "from starlette.applications import Starlette\nimport x\napp = x.Slow(Starlette())\n"},
        "m:app",
        ".",
        "",
    ),
    "not an extension": (
        {"m.py": "from flask import Flask\nfrom flask_restful import Api\nshop = Flask('x')\napi = Api(shop)\n"},
        "m:shop",
        ".",
        "wsgi",
    ),
}


def put(folder, files: dict[str, str]) -> None:
    for name, text in files.items():
        folder.write(name, text)


def started(folder, files: dict[str, str], environment: dict[str, str] | None = None):
    """What `init` wrote, and the service it declares."""
    put(folder, files)
    path = write_starter(folder.path)
    loaded = load(None, cwd=folder.path, environment=environment or {})
    assert loaded.warnings == ()
    return path.read_text(), loaded.system


@pytest.mark.parametrize("name", list(APPS))
def test_the_app_is_found_and_the_declaration_loads(folder, name) -> None:
    files, target, place, interface = APPS[name]
    text, system = started(folder, files)
    web = system.services["web"]
    assert web.app == target, text
    assert web.folder == str(folder.path / place if place != "." else folder.path)
    assert discover(folder.path).app.interface == interface
    assert (system.name, web.routes, web.replicas) == ("shop", ("/",), None)


def test_others_are_written_as_comments(folder) -> None:
    text, _ = started(
        folder,
        {
            "main.py": "from fastapi import FastAPI\napp = FastAPI()\n",
            "admin/tool.py": "from flask import Flask\nweb = Flask('x')\n",
        },
    )
    assert '# app = "tool:web" with folder = "admin"    # or: a Flask app, admin/tool.py:2' in text


def test_a_huge_folder_is_not_read_to_its_end(folder, monkeypatch) -> None:
    monkeypatch.setattr("headway.declaration.modules.TOTAL_MAX_BYTES", 200)
    folder.write("main.py", "from fastapi import FastAPI\napp = FastAPI()\n")
    folder.write("deep/more.py", "# " + "x" * 200)
    text, _ = started(folder, {})
    assert "holds more files than were looked at" in text


def test_nothing_to_serve_is_told_with_what_to_do(folder) -> None:
    with pytest.raises(AppError, match="no Python source") as caught:
        discover(folder.path)
    assert "headway up module:app" in caught.value.hint
    folder.write("a.py", "print()\n")
    with pytest.raises(AppError, match="no ASGI or WSGI app in 1 Python file in "):
        write_starter(folder.path)
    folder.write("b.py", "from aiohttp import web\napp = web.Application()\n")
    with pytest.raises(AppError, match=r"b\.py:2: aiohttp brings its own server"):
        write_starter(folder.path)
    assert not (folder.path / "headway.toml").exists()


def test_a_declaration_that_is_there_stays(folder) -> None:
    folder.write("main.py", "from fastapi import FastAPI\napp = FastAPI()\n")
    folder.write("pyproject.toml", "[tool.headway]\n")
    with pytest.raises(Conflict, match=r"pyproject\.toml declares a system already"):
        write_starter(folder.path)
    folder.write("headway.toml", "# mine\n")
    with pytest.raises(Conflict, match=r"headway\.toml declares a system already") as caught:
        write_starter(folder.path)
    assert caught.value.hint
    assert (folder.path / "headway.toml").read_text() == "# mine\n"


@pytest.mark.usefixtures("modes_bind")
def test_a_folder_that_cannot_be_written_is_told(folder) -> None:
    folder.write("main.py", "from fastapi import FastAPI\napp = FastAPI()\n")
    folder.path.chmod(0o555)
    try:
        with pytest.raises(MachineError, match="cannot be written"):
            write_starter(folder.path)
    finally:
        folder.path.chmod(0o755)


FASTAPI = "from fastapi import FastAPI\napp = FastAPI()\n"

# source below a FastAPI app -> what the comment names
ONE_REPLICA = {
    "a dict of sessions": ("SESSIONS: dict[str, str] = {}\n", "main.py:3: `SESSIONS` is kept in one process"),
    "a set of rooms": ("rooms = set()\n", "main.py:3: `rooms`"),
    "a list of connections": (
        "class Chat:\n    def __init__(self):\n        self.active_connections: list[int] = []\n",
        "main.py:5: `active_connections`",
    ),
    "flask-session": ("app.config['SESSION_TYPE'] = 'filesystem'\n", 'main.py:3: SESSION_TYPE "filesystem"'),
    "flask-session by update": ("app.config.update(SESSION_TYPE='cachelib')\n", 'SESSION_TYPE "cachelib"'),
    "flask-session by class": ("class Config:\n    SESSION_TYPE = 'simple'\n", 'main.py:4: SESSION_TYPE "simple"'),
    "socket.io": ("import socketio\nsio = socketio.AsyncServer()\n", "main.py:4: Socket.IO keeps its clients"),
    "flask-socketio": ("from flask_socketio import SocketIO\ns = SocketIO(app)\n", "main.py:4: Socket.IO"),
    "litestar sessions": (
        "from litestar.middleware.session.server_side import ServerSideSessionConfig\nc = ServerSideSessionConfig()\n",
        "main.py:4: Litestar's server-side sessions",
    ),
    "channels": ("L = {'BACKEND': 'channels.layers.InMemoryChannelLayer'}\n", "main.py:3: Django Channels'"),
    "django": (
        "SESSION_ENGINE = 'django.contrib.sessions.backends.cache'\n",
        "main.py:3: Django keeps these sessions in the memory",
    ),
    "sqlite in memory": ("import sqlite3\ndb = sqlite3.connect(':memory:')\n", "main.py:4: SQLite in memory"),
    "apscheduler": (
        "from apscheduler.schedulers.background import BackgroundScheduler\n",
        "main.py:3: APScheduler runs jobs inside the app",
    ),
    "schedule": ("import schedule\nschedule.every(3)\n", "main.py:3: schedule runs jobs"),
    "rocketry": ("from rocketry import Rocketry\n", "main.py:3: Rocketry runs jobs"),
    "repeat_every": (
        "from fastapi_utils.tasks import repeat_every\n@repeat_every(seconds=1)\ndef f(): pass\n",
        "main.py:4: @repeat_every",
    ),
}


@pytest.mark.parametrize("name", list(ONE_REPLICA))
def test_state_and_schedulers_mean_one_replica_and_why(folder, name) -> None:
    source, reason = ONE_REPLICA[name]
    text, system = started(folder, {"main.py": FASTAPI + source})
    assert system.services["web"].replicas == 1
    comment = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    assert f"One, because of {reason}" in comment or reason in comment
    assert "with more replicas" in comment


@pytest.mark.parametrize(
    "source",
    [
        "SESSIONS = {'a': 1}\n",
        "session_names = ('a',)\n",
        "SESSION_TYPE = 'redis'\n",
        "import socketio\nm = socketio.AsyncRedisManager('redis://')\nsio = socketio.AsyncServer(client_manager=m)\n",
        "SESSION_ENGINE = 'django.contrib.sessions.backends.db'\n",
        "SESSION_ENGINE = 'django.contrib.sessions.backends.cache'\nCACHES = {'default': {'BACKEND': 'x.Redis'}}\n",
        "def f():\n    sessions = {}\n",
        "from starlette.middleware import sessions as s\napp.add_middleware(s.SessionMiddleware, secret_key='x')\n",
    ],
)
def test_what_is_shared_does_not_mean_one_replica(folder, source) -> None:
    _, system = started(folder, {"main.py": FASTAPI + source})
    assert system.services["web"].replicas is None


def test_a_module_of_ones_own_called_schedule_is_no_scheduler(folder) -> None:
    _, system = started(folder, {"main.py": FASTAPI + "import schedule\n", "schedule.py": "days = 7\n"})
    assert system.services["web"].replicas is None


def test_socket_io_with_a_manager_stays_sticky(folder) -> None:
    source = "import socketio\nsio = socketio.AsyncServer(client_manager=1)\n"
    _, system = started(folder, {"main.py": FASTAPI + source})
    assert system.services["web"].sticky


def test_sqlite_is_told_and_changes_nothing(folder) -> None:
    text, system = started(folder, {"main.py": FASTAPI + "URL = 'sqlite+aiosqlite:///shop.db'\n"})
    assert "main.py:3: the app uses SQLite" in text
    assert (system.services["web"].replicas, system.databases) == (None, {})


# source below a FastAPI app, other files -> env of the service
DATABASES = {
    "subscript": ("import os\nU = os.environ['DATABASE_URL']\n", {}, {"DATABASE_URL": "{main.url}"}),
    "getenv": ("from os import getenv\nU = getenv('DATABASE_URL')\n", {}, {"DATABASE_URL": "{main.url}"}),
    "get": ("from os import environ\nU = environ.get('POSTGRES_URL', '')\n", {}, {"POSTGRES_URL": "{main.url}"}),
    "settings": (
        "from pydantic_settings import BaseSettings\nclass S(BaseSettings):\n    database_url: str\n",
        {},
        {"DATABASE_URL": "{main.url}"},
    ),
    "settings with a prefix": (
        "from pydantic_settings import BaseSettings, SettingsConfigDict\nclass S(BaseSettings):\n"
        "    model_config = SettingsConfigDict(env_prefix='PG_')\n    url: str\n",
        {},
        {"PG_URL": "{main.url}"},
    ),
    "decouple": ("from decouple import config\nU = config('DATABASE_URL')\n", {}, {"DATABASE_URL": "{main.url}"}),
    "dj-database-url": ("import dj_database_url\nD = dj_database_url.config()\n", {}, {"DATABASE_URL": "{main.url}"}),
    "django-environ": ("import environ\nenv = environ.Env()\nD = env.db()\n", {}, {"DATABASE_URL": "{main.url}"}),
    "sqlite by default, with a driver": (
        "import os\nU = os.environ.get('DATABASE_URL', 'sqlite:///x.db')\n",
        {"requirements.txt": "psycopg[binary]\n"},
        {"DATABASE_URL": "{main.url}"},
    ),
    "a driver in the default": (
        "import os\nU = os.getenv('DATABASE_URL', 'postgresql+asyncpg://localhost/x')\n",
        {},
        {"DATABASE_URL": "postgresql+asyncpg://{main.user}:{main.password}@{main.host}:{main.port}/{main.name}"},
    ),
    "in parts": (
        "import os, psycopg\nD = {'H': os.environ['POSTGRES_HOST'], 'P': os.environ['POSTGRES_PASSWORD']}\n",
        {},
        {"POSTGRES_HOST": "{main.host}", "POSTGRES_PASSWORD": "{main.password}"},
    ),
}


@pytest.mark.parametrize("name", list(DATABASES))
def test_an_app_that_reads_a_database_url_gets_a_database(folder, name) -> None:
    source, files, env = DATABASES[name]
    text, system = started(folder, {"main.py": FASTAPI + source, **files})
    assert system.services["web"].env == env, text
    assert system.services["web"].uses == ("main",)
    assert system.databases["main"].url is None


def test_the_schema_is_applied(folder) -> None:
    source = "import os\nU = os.environ['DATABASE_URL']\n"
    _, system = started(folder, {"main.py": FASTAPI + source, "sql/schema.sql": "CREATE TABLE a (id int);\n"})
    assert system.databases["main"].schema_file == str(folder.path / "sql" / "schema.sql")


def test_a_schema_of_another_database_is_left_alone(folder) -> None:
    source = "import os\nU = os.environ['DATABASE_URL']\n"
    _, system = started(
        folder, {"main.py": FASTAPI + source, "schema.sql": "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT);\n"}
    )
    assert system.databases["main"].schema_file is None


def test_an_app_that_may_not_speak_postgresql_gets_it_as_a_comment(folder) -> None:
    source = "import os\nU = os.environ.get('DATABASE_URL', 'sqlite:///x.db')\n"
    text, system = started(folder, {"main.py": FASTAPI + source})
    assert system.databases == {}
    assert "# [databases.main]" in text
    assert '# env = { DATABASE_URL = "{main.url}" }' in text


def test_required_variables_and_celery_are_told(folder) -> None:
    source = "import os\nfrom celery import Celery\nK = os.environ['SECRET_KEY']\nworker = Celery('x')\n"
    text, _ = started(folder, {"main.py": FASTAPI + source})
    assert "The app reads SECRET_KEY (main.py:5) from its environment." in text
    assert '# command = ["celery", "-A", "main", "worker"]' in text


def test_a_wsgi_app_reads_like_this(folder) -> None:
    text, _ = started(
        folder,
        {
            "app.py": "import os\nfrom flask import Flask\napp = Flask(__name__)\nplayers = {}\n"
            "URL = os.environ['DATABASE_URL']\n",
            "schema.sql": "CREATE TABLE a (id int);\n",
        },
    )
    assert text == (HERE / "starter.toml").read_text()
