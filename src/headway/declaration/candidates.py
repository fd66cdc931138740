"""Finds what can be served in Python source: framework objects, factories that return one, and bare callables.

Pure: works on syntax trees. Every candidate carries its score and a reason, so that `init` can say why it chose.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headway.declaration.modules import Module

# (first word, last word) of the dotted name of a class or function -> framework, interface.
_FRAMEWORKS: dict[tuple[str, str], tuple[str, str]] = {
    ("fastapi", "FastAPI"): ("FastAPI", "asgi"),
    ("starlette", "Starlette"): ("Starlette", "asgi"),
    ("litestar", "Litestar"): ("Litestar", "asgi"),
    ("quart", "Quart"): ("Quart", "asgi"),
    ("blacksheep", "Application"): ("BlackSheep", "asgi"),
    ("connexion", "AsyncApp"): ("Connexion", "asgi"),
    ("connexion", "FlaskApp"): ("Connexion", "asgi"),
    ("flask", "Flask"): ("Flask", "wsgi"),
    ("apiflask", "APIFlask"): ("APIFlask", "wsgi"),
    ("flask_openapi3", "OpenAPI"): ("Flask", "wsgi"),
    ("bottle", "Bottle"): ("Bottle", "wsgi"),
    ("bottle", "default_app"): ("Bottle", "wsgi"),
    ("falcon", "App"): ("Falcon", "wsgi"),
    ("falcon", "API"): ("Falcon", "wsgi"),
    ("django", "get_wsgi_application"): ("Django", "wsgi"),
    ("django", "get_asgi_application"): ("Django", "asgi"),
    ("channels", "ProtocolTypeRouter"): ("Django Channels", "asgi"),
    ("socketio", "ASGIApp"): ("Socket.IO", "asgi"),
    ("socketio", "WSGIApp"): ("Socket.IO", "wsgi"),
    ("", "make_wsgi_app"): ("Pyramid", "wsgi"),
}
# Frameworks that bring their own server and speak neither interface.
OWN_SERVERS = {
    ("aiohttp", "Application"): "aiohttp",
    ("tornado", "Application"): "Tornado",
    ("sanic", "Sanic"): "Sanic",
}

_FACTORY = re.compile(
    r"(create|make|build|get|init)_(\w+_)?(app|application|wsgi|asgi|api|server)|app_factory|application_factory"
)
_APP_NAMES = ("app", "application", "api", "asgi", "wsgi", "server", "asgi_app", "wsgi_app")
# What an app wrapped in middleware is called; other names take apps as arguments without being one (`Admin(app)`).
_OUTER_NAMES = ("app", "application", "asgi_app", "wsgi_app")
_FILE_BONUS = {"main": 10, "app": 10, "wsgi": 10, "asgi": 10, "application": 9, "server": 8, "web": 8, "api": 6}
_SIDE_FOLDERS = frozenset(
    ["examples", "example", "demo", "demos", "scripts", "script", "bench", "benchmarks", "tools", "samples", "tutorial"]
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that can be served, `reason` in half a sentence, better ones with the higher score."""

    target: str  # "shop.web:app"
    folder: str  # import path, relative to the folder searched
    framework: str
    interface: str  # "asgi", "wsgi", or "" where the source does not tell
    where: str  # "shop/web.py:7"
    reason: str
    score: int


def find_candidates(modules: Iterable[Module]) -> tuple[Candidate, ...]:
    """All candidates, the best first; of equal ones the first in the tree."""
    found = [candidate for module in modules for candidate in _Reader(module).candidates()]
    return tuple(sorted(found, key=lambda candidate: -candidate.score))


def own_servers(modules: Iterable[Module]) -> tuple[tuple[str, str], ...]:
    """Framework and place of apps that bring their own server, to say so instead of "nothing found"."""
    return tuple(
        (OWN_SERVERS[key], module.where(node))
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and (key := _ends(module.qualified(node.func))) in OWN_SERVERS
    )


def _ends(qualified: str) -> tuple[str, str]:
    return qualified.partition(".")[0], qualified.rpartition(".")[2]


class _Reader:
    """One module's candidates."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.top = tuple(_top_level(module.tree.body))
        self.classes = {name: kind for node in self.top if (kind := self._class(node)) for name in [_name_of(node)]}
        self.factories = {
            node.name: kind for node in self.top if isinstance(node, ast.FunctionDef) and (kind := self._made(node))
        }
        self.inner = frozenset((*self._mounted(), *self._wrapped()))

    def candidates(self) -> Iterator[Candidate]:
        named: set[str] = set()
        for node in self.top:
            for name, framework, interface, reason, score in (*self._assigned(node), *self._defined(node)):
                if name.removesuffix("()") not in named:
                    named.add(name.removesuffix("()"))
                    yield self._candidate(node, name, framework, interface, reason, score)

    def _candidate(
        self, node: ast.stmt, name: str, framework: str, interface: str, reason: str, score: int
    ) -> Candidate:
        module = self.module
        parts = module.file.split("/")
        score += _FILE_BONUS.get(parts[-1].removesuffix(".py"), 5 if parts[-1] == "__init__.py" else 0)
        score += 10 if name.partition(".")[0] in _APP_NAMES else 0
        score -= 3 * (len(parts) - 1) + (60 if _SIDE_FOLDERS & set(parts[:-1]) else 0)
        if name in self.inner:
            score, reason = score - 50, f"{reason} inside another"
        return Candidate(
            f"{module.name}:{name}", module.folder, framework, interface, module.where(node), reason, score
        )

    def _assigned(self, node: ast.stmt) -> Iterator[tuple[str, str, str, str, int]]:
        """`app = FastAPI()` and its kin."""
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            return
        value = node.value
        for name in names if isinstance(value, ast.Call) else ():
            assert isinstance(value, ast.Call)
            kind = self._framework(value)
            called = self.module.qualified(value.func).rpartition(".")[2]
            if kind is not None:
                # Django writes both; WSGI is what its own guide starts with, Channels needs ASGI.
                asgi_twin = kind[0] == "Django" and kind[1] == "asgi"
                yield (
                    name,
                    *kind,
                    f"{_a(kind[0])} app",
                    105 if kind[0] == "Django Channels" else 90 if asgi_twin else 100,
                )
            elif self.module.qualified(value.func) == "dash.Dash":
                yield f"{name}.server", "Dash", "wsgi", "the Flask app of a Dash app", 95
            elif name in _OUTER_NAMES and self._takes_framework(value, name):
                yield name, "", "", f"an app wrapped in {called}", 100
            elif _FACTORY.fullmatch(called) and name in _APP_NAMES:
                kind = self.factories.get(called, ("", ""))
                yield (
                    name,
                    *kind,
                    f"{_a(kind[0])} app, made by {called}()" if kind[0] else f"what {called}() returns",
                    96,
                )

    def _defined(self, node: ast.stmt) -> Iterator[tuple[str, str, str, str, int]]:
        """Bare callables and factories."""
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            return
        bare = _bare_interface(node, ())
        if bare:
            yield node.name, "", bare, f"a bare {bare.upper()} callable", 70
        elif isinstance(node, ast.FunctionDef) and not _required(node) and _returns(node):
            kind = self.factories.get(node.name)
            if _FACTORY.fullmatch(node.name):
                yield (
                    f"{node.name}()",
                    *(kind or ("", "")),
                    f"a factory of {_a(kind[0]) if kind else 'an'} app",
                    85 if kind else 65,
                )
            elif kind is not None:
                yield f"{node.name}()", *kind, f"a function that returns {_a(kind[0])} app", 50

    def _made(self, function: ast.FunctionDef) -> tuple[str, str] | None:
        """The framework whose object a function makes."""
        calls = (node for node in ast.walk(function) if isinstance(node, ast.Call))
        return next((kind for call in calls if (kind := self._framework(call))), None)

    def _framework(self, call: ast.Call) -> tuple[str, str] | None:
        qualified = self.module.qualified(call.func)
        first, last = _ends(qualified)
        if first == "falcon" and ".asgi." in qualified:
            return ("Falcon", "asgi") if last == "App" else None
        return _FRAMEWORKS.get((first, last)) or _FRAMEWORKS.get(("", last)) or self.classes.get(qualified)

    def _class(self, node: ast.stmt) -> tuple[str, str] | None:
        """A class of the app's own that can be served: of a framework, or with the right `__call__`."""
        if not isinstance(node, ast.ClassDef):
            return None
        for parent in node.bases:
            if kind := _FRAMEWORKS.get(_ends(self.module.qualified(parent))):
                return kind
        for method in node.body:
            if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and method.name == "__call__":
                interface = _bare_interface(method, ("self",))
                # A class that takes an app is middleware, not an app.
                if interface and not any(_takes_app(inner) for inner in node.body):
                    return node.name, interface
        return None

    def _takes_framework(self, call: ast.Call, name: str) -> bool:
        """Whether a call wraps an app: made in its arguments, or assigned before under another name."""
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        return any(isinstance(argument, ast.Call) and self._framework(argument) for argument in arguments) or any(
            isinstance(argument, ast.Name) and argument.id != name and argument.id in self._plain()
            for argument in arguments
        )

    def _plain(self) -> frozenset[str]:
        """Names that hold a framework's object as it was made."""
        return frozenset(
            target.id
            for node in self.top
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and self._framework(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        )

    def _wrapped(self) -> Iterator[str]:
        """Names of apps that another app takes in: `app = Slow(api)`, `site = socketio.ASGIApp(server, api)`."""
        plain = self._plain()
        for node in self.top:
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
                continue
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            if names & set(_OUTER_NAMES) or self._framework(node.value):
                arguments = [*node.value.args, *(keyword.value for keyword in node.value.keywords)]
                taken = {argument.id for argument in arguments if isinstance(argument, ast.Name)}
                yield from (taken & plain) - names

    def _mounted(self) -> Iterator[str]:
        for node in ast.walk(self.module.tree):
            if isinstance(node, ast.Call) and self.module.qualified(node.func).rpartition(".")[2] in ("mount", "Mount"):
                arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
                yield from (argument.id for argument in arguments if isinstance(argument, ast.Name))


def _a(framework: str) -> str:
    return f"{'an' if framework[:1] in 'AEIO' else 'a'} {framework}"


def _name_of(node: ast.stmt) -> str:
    return node.name if isinstance(node, ast.ClassDef) else ""


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import, those in `if`, `try` and `with` included, `__main__` left out."""
    for node in body:
        if isinstance(node, ast.If):
            if "__main__" not in ast.dump(node.test):
                yield from _top_level(node.body)
            yield from _top_level(node.orelse)
        elif isinstance(node, ast.Try):
            yield from _top_level([*node.body, *node.orelse, *node.finalbody])
        elif isinstance(node, ast.With):
            yield from _top_level(node.body)
        else:
            yield node


def _bare_interface(node: ast.FunctionDef | ast.AsyncFunctionDef, before: tuple[str, ...]) -> str:
    """ "asgi" or "wsgi" by the parameters' names, which everybody writes the same; else ""."""
    names = tuple(argument.arg for argument in (*node.args.posonlyargs, *node.args.args))
    if isinstance(node, ast.AsyncFunctionDef):
        return "asgi" if names == (*before, "scope", "receive", "send") else ""
    return "wsgi" if names in ((*before, "environ", "start_response"), (*before, "env", "start_response")) else ""


def _takes_app(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.FunctionDef)
        and node.name == "__init__"
        and any(argument.arg in ("app", "application", "inner", "wsgi_app") for argument in node.args.args)
    )


def _required(node: ast.FunctionDef) -> bool:
    positional = len(node.args.posonlyargs) + len(node.args.args)
    return positional > len(node.args.defaults) or any(default is None for default in node.args.kw_defaults)


def _returns(node: ast.FunctionDef) -> bool:
    return any(isinstance(inner, ast.Return) and inner.value is not None for inner in ast.walk(node))
