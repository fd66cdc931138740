"""Which declaration is meant, how an overlay lies over it, and what comes out complete."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.declaration.check import check
from headway.declaration.keys import SECTIONS, fields_of
from headway.declaration.load import load
from headway.declaration.paths import find_python
from headway.declaration.translate import translate
from headway.errors import DeclarationError, HeadwayError
from headway.model.declared import System

WEB = '[services.web]\napp = "shop:app"\n'


def refusal(folder, target: str | None = None, **options: str) -> HeadwayError:
    with pytest.raises(HeadwayError) as caught:
        load(target, cwd=folder.path, environment={}, **options)
    return caught.value


# ── where it is found


def test_the_nearest_declaration_above_is_found_and_paths_are_relative_to_it(folder) -> None:
    folder.write("headway.toml", WEB)
    below = folder.path / "a" / "b"
    below.mkdir(parents=True)
    loaded = load(None, cwd=below, environment={})
    assert loaded.root == folder.path
    assert loaded.file == folder.path / "headway.toml"
    assert loaded.source == str(folder.path / "headway.toml")
    assert loaded.system.services["web"].folder == str(folder.path)


@pytest.mark.parametrize("target", [None, ".", "headway.toml", "../shop", "../shop/headway.toml"])
def test_a_folder_and_a_file_name_the_same_declaration(folder, target) -> None:
    folder.write("headway.toml", WEB)
    loaded = load(target, cwd=folder.path, environment={})
    assert os.path.samefile(loaded.root, folder.path)
    assert loaded.system.name == "shop"


def test_a_file_may_have_another_name(folder) -> None:
    folder.write("other.toml", WEB)
    assert load("other.toml", cwd=folder.path, environment={}).source == "other.toml"


def test_pyproject_holds_a_declaration_too(folder) -> None:
    folder.write("pyproject.toml", '[project]\nname = "x"\n[tool.headway.services.web]\napp = "shop:app"\n')
    loaded = load(None, cwd=folder.path, environment={})
    assert loaded.source == "pyproject.toml [tool.headway]"
    assert loaded.system.services["web"].app == "shop:app"
    assert load("pyproject.toml", cwd=folder.path, environment={}).system == loaded.system


def test_a_pyproject_without_a_section_is_passed_over_on_the_way_up(folder) -> None:
    folder.write("headway.toml", WEB)
    folder.write("part/pyproject.toml", '[project]\nname = "headway-part"\n')
    assert load(None, cwd=folder.path / "part", environment={}).root == folder.path


def test_two_declarations_in_one_folder_are_told(folder) -> None:
    folder.write("headway.toml", WEB)
    folder.write("pyproject.toml", "[tool.headway]\n")
    (warning,) = load(None, cwd=folder.path, environment={}).warnings
    assert "is not used" in warning.message


def test_an_app_needs_no_file(folder) -> None:
    folder.write("headway.toml", "this is not looked at")
    loaded = load("shop.web:make()", cwd=folder.path, environment={})
    web = loaded.system.services["web"]
    assert (loaded.system.name, web.app, web.routes) == ("shop", "shop.web:make()", ("/",))
    assert (loaded.file, loaded.root, web.folder) == (None, folder.path, str(folder.path))


def test_a_system_is_called_like_its_folder_where_a_name_can_be_made_of_it(folder) -> None:
    for name, expected in [
        ("My Shop!", "my-shop"),
        ("2024", "app"),
        ("9lives", "lives"),
        ("ünix", "nix"),
        ("a" * 50, "a" * 31),
    ]:
        place = folder.path / name
        place.mkdir()
        assert load("m:a", cwd=place, environment={}).system.name == expected


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        (None, "no headway.toml here or in a folder above", "headway up module:app"),
        (".", "holds neither headway.toml nor", "headway init ."),
        ("pyproject.toml", "has no [tool.headway]", "headway init"),
        ("shop", "is no file or folder here", "headway up shop:app"),
        ("shop/web.py", "is no file or folder here", "headway up shop.web:app"),
        ("shop/web:app", "is no file or folder here", "headway up shop.web:app"),
        ("x.toml", "is no file or folder here", "a headway.toml, or an app"),
    ],
)
def test_what_is_not_there_is_told_with_what_to_do(folder, target, message, hint) -> None:
    folder.write("pyproject.toml", "[tool.other]\n")
    error = refusal(folder, target)
    assert message in error.message
    assert hint in error.hint


def test_an_app_that_is_no_target_is_a_problem_of_the_declaration(folder) -> None:
    error = refusal(folder, "web.py:app")
    assert isinstance(error, DeclarationError)
    assert error.problems[0].hint == 'write "web:app"'


# ── syntax


@pytest.mark.parametrize(
    ("toml", "where", "message", "hint"),
    [
        ("[system]\nname = shop\n", "line 2, column 8", "invalid value", "text needs quotes"),
        ("a = 1\na = 2\nb = 1\n", "line 2, column 6", "cannot overwrite a value", "written twice"),
        ("[a]\n[a]\n", "line 2, column 3", "cannot declare [a] twice", "written twice"),
        ("[a.b]\n[a.b]\n", "line 2, column 5", "cannot declare [a.b] twice", "written twice"),
        ("a b = 1\n", "line 1, column 3", "expected '='", "needs quotes"),
        ("a = 1 2\n", "line 1, column 7", "expected newline", "one key a line"),
        ('a = "x', "end of file", "unterminated", "toml.io"),
        ('a = "x\\y"\n', "line 1, column 9", "unescaped", "backslash twice"),
    ],
)
def test_broken_toml_is_told_with_line_and_column(folder, toml, where, message, hint) -> None:
    (problem,) = folder.problems(toml)
    assert problem.path == where
    assert message in problem.message
    assert hint in problem.hint


def test_windows_line_ends_and_a_byte_order_mark_are_no_mistake(folder) -> None:
    (folder.path / "headway.toml").write_bytes(b"\xef\xbb\xbf" + WEB.replace("\n", "\r\n").encode())
    assert load(None, cwd=folder.path, environment={}).system.services["web"].app == "shop:app"


def test_other_encodings_and_huge_files_are_refused(folder) -> None:
    place = folder.path / "headway.toml"
    place.write_bytes(WEB.encode() + b"# caf\xe9\n")
    error = refusal(folder)
    assert isinstance(error, DeclarationError)
    assert (error.problems[0].path, error.problems[0].message) == ("line 3", "is not UTF-8 text")
    place.write_bytes(b"#" * (2**20 + 1))
    assert "larger than 1 MiB" in refusal(folder).message


# ── overlays


def test_an_overlay_merges_tables_and_replaces_the_rest(folder) -> None:
    folder.write("headway.toml", WEB + 'replicas = 2\nroutes = ["/a", "/b"]\nenv = { A = "1", B = "2" }\n')
    folder.write("headway.production.toml", '[services.web]\nreplicas = 8\nroutes = ["/c"]\nenv = { B = "3" }\n')
    loaded = load(None, cwd=folder.path, environment={}, overlay="production")
    web = loaded.system.services["web"]
    assert (web.replicas, web.routes, web.env) == (8, ("/c",), {"A": "1", "B": "3"})
    assert loaded.source == "headway.toml + headway.production.toml"


def test_an_overlay_that_is_missing_is_told_with_those_that_exist(folder) -> None:
    folder.write("headway.toml", WEB)
    folder.write("headway.staging.toml")
    error = refusal(folder, overlay="production")
    assert "headway.production.toml is missing" in error.message
    assert "--env staging" in error.hint
    assert "not a name" in refusal(folder, overlay="../x").message
    assert "needs a declaration" in refusal(folder, "m:a", overlay="staging").message


# ── what comes out


def test_a_single_app_without_routes_gets_all_of_them(folder) -> None:
    system = folder.load(WEB + '[services.jobs]\ncommand = "work"\n').system
    assert system.services["web"].routes == ("/",)
    assert system.services["jobs"].routes == ()


def test_of_two_apps_none_is_made_public_by_itself(folder) -> None:
    loaded = folder.load(WEB + '[services.b]\napp = "b:b"\n')
    assert all(service.routes == () for service in loaded.system.services.values())
    assert [warning.path for warning in loaded.warnings] == ["services.web.routes", "services.b.routes"]


def test_spellings_that_mean_the_same_come_out_the_same(folder) -> None:
    folder.write("c.pem")
    system = folder.load(
        '[edge]\nbind = ["LOCALHOST:8443", "[0::1]:8000", "http://0.0.0.0:8080", "0.0.0.0:80"]\n'
        'tls = { certificate = "c.pem" }\ntrusted = ["10.1.2.3/8", "192.0.2.7"]\n'
        + WEB
        + 'routes = ["/api/", "/api", "API.example.com", "API.example.com/V2/"]\nstatic = { "/static/" = "." }\n'
    ).system
    assert system.edge.bind == ("localhost:8443", "[::1]:8000", "http://0.0.0.0:8080", "http://0.0.0.0:80")
    assert system.edge.trusted == ("10.0.0.0/8", "192.0.2.7/32")
    assert system.services["web"].routes == ("/api", "api.example.com", "api.example.com/V2")
    assert system.services["web"].static == {"/static": str(folder.path)}


def test_without_tls_a_scheme_says_nothing(folder) -> None:
    assert folder.load('[edge]\nbind = "http://127.0.0.1:80"\n' + WEB).system.edge.bind == ("127.0.0.1:80",)


def test_one_text_is_a_list_of_one_and_a_command_is_split(folder) -> None:
    system = folder.load(WEB + "routes = '/a'\n[services.b]\ncommand = \"celery -A 'my shop'\"\n").system
    assert system.services["web"].routes == ("/a",)
    assert system.services["b"].command == ("celery", "-A", "my shop")


def test_databases_that_env_names_are_used(folder) -> None:
    system = folder.load(
        WEB + 'uses = ["b"]\nenv = { U = "{a.url}", N = 3, W = "{{x}}" }\n[databases.a]\n[databases.b]\n'
    ).system
    assert system.services["web"].uses == ("b", "a")
    assert system.services["web"].env["N"] == "3"


def test_paths_become_absolute_and_links_stay(folder) -> None:
    folder.write("s.sql")
    folder.write("c.pem")
    (folder.path / "src").mkdir()
    (folder.path / "my").mkdir()
    (folder.path / "my" / "python").symlink_to(sys.executable)
    system = folder.load(
        WEB + 'python = "my/python"\nfolder = "src"\nstatic = { "/s" = "src/../src" }\n'
        '[databases.a]\nschema = "s.sql"\n[edge.tls]\ncertificate = "c.pem"\nkey = "c.pem"\n'
    ).system
    web, root = system.services["web"], str(folder.path)
    assert (web.python, web.folder, web.static) == (f"{root}/my/python", f"{root}/src", {"/s": f"{root}/src"})
    assert system.databases["a"].schema_file == f"{root}/s.sql"
    assert system.edge.tls is not None
    assert (system.edge.tls.certificate, system.edge.tls.key) == (f"{root}/c.pem", f"{root}/c.pem")


def test_the_nearest_virtual_environment_is_taken(folder) -> None:
    below = folder.path / "a" / "b"
    below.mkdir(parents=True)
    assert find_python(below, "/fallback") == "/fallback"
    for place in (folder.path / "venv", folder.path / "a" / ".venv"):
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "python").symlink_to(sys.executable)
        assert find_python(below, "/fallback") == str(place / "bin" / "python")
    folder.write("headway.toml", WEB)
    assert folder.load(WEB).system.services["web"].python == str(folder.path / "venv" / "bin" / "python")


def test_the_default_interpreter_can_be_given(folder) -> None:
    folder.write("headway.toml", WEB)
    loaded = load(None, cwd=folder.path, environment={}, default_python="/opt/python")
    assert loaded.system.services["web"].python == "/opt/python"


@pytest.mark.parametrize(
    ("toml", "path", "message"),
    [
        ('[edge]\ntrusted = "0.0.0.0/0"\n' + WEB, "edge.trusted[0]", "is everybody"),
        (WEB + 'routes = "api"\n', "services.web.routes[0]", "read as a host"),
        (WEB + 'routes = "/a"\nstatic = { "/s" = "." }\n', 'services.web.static."/s"', "no route of web leads here"),
        (WEB + 'deadline = "2m"\n', "services.web.drain_timeout", "30 s is shorter than the deadline of 2 min"),
        (WEB + "limit = 20\nthreads = 8\n", "services.web.limit", "above its 8 threads"),
        (WEB + '[services.b]\ncommand = "x"\nslo = "1s"\n', "services.b.slo", "changes nothing for a command"),
    ],
)
def test_what_works_but_surprises_is_a_warning(folder, toml, path, message) -> None:
    (warning,) = folder.load(toml).warnings
    assert warning.path == path
    assert message in warning.message
    assert warning.hint


# ── whatever is written, it is answered

_WORDS = sorted({*System.model_fields, "system", "caches", "web", "main", "A", "at"}.union(*map(fields_of, SECTIONS)))
_values = st.recursive(
    st.none().map(lambda _: "")
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["{main.url}", "{", "/", "a.de", "30s", "1MiB", "127.0.0.1:80", "m:a", "main"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_WORDS) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
_tables = st.fixed_dictionaries(
    {},
    optional={
        "system": _values,
        "edge": _values,
        "services": st.dictionaries(st.sampled_from(["web", "b"]), _values, max_size=2) | _values,
        "databases": st.dictionaries(st.sampled_from(["main", "env"]), _values, max_size=2) | _values,
        "caches": st.dictionaries(st.sampled_from(["main", "web"]), _values, max_size=2) | _values,
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_tables)
def test_no_table_makes_reading_it_fail(tables) -> None:
    read = translate(tables, default_name="app")
    told = (*read.problems, *check(read.system, environment={}, broken=read.broken))
    assert told or read.system.services
    assert all(problem.path and problem.message for problem in told)


def test_routes_that_differ_have_one_spelling_and_keep_their_order(folder) -> None:
    loaded = folder.load('[services.web]\napp = "shop:app"\nat = { "/b/" = { slo = "5s" }, "/a" = {} }\n')
    web = loaded.system.services["web"]
    assert list(web.at) == ["/b", "/a"]
    assert (web.at["/b"].slo_s, web.at["/b"].deadline_s, web.criticality) == (5.0, None, "critical")


def test_a_range_without_room_is_told(folder) -> None:
    loaded = folder.load('[services.web]\napp = "shop:app"\nreplicas = { min = 2, max = 2 }\n')
    assert [(warning.path, warning.hint) for warning in loaded.warnings] == [
        ("services.web.replicas", "write replicas = 2")
    ]
