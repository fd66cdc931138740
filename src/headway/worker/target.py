"""Finds the app: imports `module:attribute`, tells ASGI from WSGI, and says clearly what is wrong when it cannot.

A `Refusal` is for the user: one sentence, a hint, and the app's own traceback cut to the app's frames.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import shlex
import sys
import traceback
from typing import Any


class Refusal(Exception):
    """The app cannot be served: `kind` for programs, `message` and `hint` for people, `detail` = its traceback."""

    def __init__(self, kind: str, message: str, hint: str, detail: str = "") -> None:
        super().__init__(message)
        self.kind, self.message, self.hint, self.detail = kind, message, hint, detail


def app_frames(error: BaseException) -> str:
    """The traceback of `error` without our frames and without the import machinery."""
    here = os.path.dirname(os.path.abspath(__file__))

    def is_noise(frame: traceback.FrameSummary) -> bool:
        return frame.filename.startswith((here, "<frozen importlib")) or frame.filename == importlib.__file__

    summary = traceback.TracebackException.from_exception(error)
    for part in (summary, summary.__cause__, summary.__context__):
        if part is not None:
            part.stack = traceback.StackSummary.from_list([frame for frame in part.stack if not is_noise(frame)])
    return "".join(summary.format())


def load_app(target: str) -> Any:
    """The object that `module:attribute` or `module:factory()` names; Refusal when there is none."""
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            folders = ", ".join(entry or "." for entry in sys.path[:1])
            raise Refusal(
                "import",
                f"there is no module {module_name!r} in {folders}",
                'check the name and the service\'s folder: app = "module:attribute", folder = "src"',
            ) from error
        raise Refusal(
            "import",
            f"importing {module_name} failed: no module named {error.name!r}",
            f"install it for the app's interpreter: {shlex.quote(sys.executable)} -m pip install …",
            app_frames(error),
        ) from error
    except BaseException as error:
        raise Refusal(
            "import",
            f"importing {module_name} failed: {type(error).__name__}: {error}",
            "mend the app; the traceback is the app's own",
            app_frames(error),
        ) from error
    is_factory = attribute.endswith("()")
    found: Any = module
    for part in attribute.removesuffix("()").split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            apps = [name for name, value in vars(module).items() if not name.startswith("_") and _may_be_served(value)]
            hint = f"did you mean {module_name}:{apps[0]}?" if apps else f"what is the app called in {module_name}?"
            raise Refusal("attribute", f"{module_name} has no attribute {part!r}", hint) from error
    if is_factory:
        try:
            found = found()
        except BaseException as error:
            raise Refusal(
                "factory",
                f"{target} raised {type(error).__name__}: {error}",
                "mend the factory; the traceback is the app's own",
                app_frames(error),
            ) from error
    return found


def _may_be_served(value: Any) -> bool:
    """`_looks_served` for whatever a module holds: proxies like Flask's `request` raise when they are looked at."""
    try:
        return _looks_served(value)
    except Exception:
        return False


def _looks_served(value: Any) -> bool:
    if not callable(value) or inspect.isclass(value) or inspect.ismodule(value):
        return False
    if inspect.isfunction(value):
        return list(inspect.signature(value).parameters) in (
            ["scope", "receive", "send"],
            ["environ", "start_response"],
        )
    return interface_of(value) is not None


def _required_positionals(call: Any) -> tuple[int, bool] | None:
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(1 for p in plain if p.default is p.empty)
    return required, any(p.kind == p.VAR_POSITIONAL for p in parameters)


def interface_of(app: Any) -> str | None:
    """ "asgi", "asgi2" (the double callable), "wsgi", or None when the object is none of them."""
    if not callable(app):
        return None
    if inspect.isclass(app):
        shape = _required_positionals(app)
        return "asgi2" if shape == (1, False) else None
    inner = app
    while isinstance(inner, functools.partial):
        inner = inner.func
    call = app if inspect.isfunction(inner) or inspect.ismethod(inner) else type(app).__call__.__get__(app)
    is_async = inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(inner)
    shape = _required_positionals(call)
    if shape is None:
        return "asgi" if is_async else "wsgi"
    required, takes_any = shape
    if required == 3 or (takes_any and is_async):
        return "asgi"
    if required == 2 or takes_any:
        return "wsgi"
    return None


def tell_apart(app: Any, target: str, declared: str) -> str:
    """The interface to serve `app` with; Refusal when it has the shape of neither."""
    if not callable(app):
        raise Refusal(
            "shape",
            f"{target} is of type {type(app).__name__}, not an app",
            "name the ASGI or WSGI object itself, for example the one FastAPI() or Flask(__name__) returned",
        )
    found = interface_of(app)
    if declared != "auto":
        return found if declared == "asgi" and found == "asgi2" else declared
    if found is None:
        count = _required_positionals(app)
        if count is not None and count[0] == 0:
            raise Refusal("shape", f"{target} takes no arguments: it looks like a factory", f'app = "{target}()"')
        raise Refusal(
            "shape",
            f"{target} is callable, but neither as ASGI (scope, receive, send) nor as WSGI (environ, start_response)",
            'name the app itself; where telling apart fails: interface = "asgi" or "wsgi"',
        )
    return found
