"""How a declaration is made fit for a drill, and what a drill would touch that is not its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.cli.drilled import copy_of, first_path, is_here, real_data, service_of
from headway.errors import HeadwayError
from headway.lab.target import parse_target
from headway.model.declared import System


def system(**services: dict[str, object]) -> System:
    return System.model_validate({"services": services})


def test_a_copy_is_on_loopback_and_does_no_other_work() -> None:
    declared = System.model_validate(
        {
            "edge": {"bind": ["0.0.0.0:443"], "tls": {"certificate": "c.pem"}, "client_rate": "10/s"},
            "services": {"web": {"app": "a:b", "routes": ["/"]}, "mailer": {"command": "celery worker"}},
        }
    )
    copy = copy_of(declared, 4711)
    assert copy.system.edge.bind == ("127.0.0.1:4711",)
    assert copy.system.edge.tls is None
    assert copy.system.edge.client_rate_per_s is None
    assert list(copy.system.services) == ["web"]
    told = " ".join(copy.notes)
    for word in ("mailer", "client_rate", "TLS"):
        assert word in told


def test_private_services_come_along_and_alone_are_not_enough() -> None:
    both = system(web={"app": "a:b", "routes": ["/"]}, stock={"app": "c:d"})
    assert set(copy_of(both, 1).system.services) == {"web", "stock"}
    with pytest.raises(HeadwayError, match="no service is public") as refused:
        copy_of(system(stock={"app": "c:d"}), 1)
    assert "routes" in refused.value.hint


def test_hosts_become_paths_where_that_is_clear() -> None:
    copy = copy_of(system(web={"app": "a:b", "routes": ["shop.example", "api.example/v2"]}), 1)
    assert copy.system.services["web"].routes == ("/", "/v2")
    with pytest.raises(HeadwayError, match="differ by host alone"):
        copy_of(system(a={"app": "a:b", "routes": ["a.example"]}, b={"app": "a:b", "routes": ["b.example"]}), 1)


def test_a_path_belongs_to_the_longest_route() -> None:
    declared = system(web={"app": "a:b", "routes": ["/"]}, api={"app": "a:b", "routes": ["/api"]})
    assert service_of(declared, "/") == "web"
    assert service_of(declared, "/api") == "api"
    assert service_of(declared, "/api/x?y=1") == "api"
    assert service_of(declared, "/apis") == "web"
    assert first_path(declared) == "/"
    with pytest.raises(HeadwayError, match="no service answers /x") as refused:
        service_of(system(api={"app": "a:b", "routes": ["/api"]}), "/x")
    assert "/api" in refused.value.hint


def test_what_is_not_its_own_is_named_without_its_value(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("redis://:password@cache/0\n")
    declared = System.model_validate(
        {
            "databases": {"main": {}, "old": {"url": "{env.OLD}"}},
            "caches": {"hot": {}, "far": {"url": "{env.FAR}"}},
            "services": {
                "web": {
                    "app": "a:b",
                    "routes": ["/"],
                    "env": {"OWN": "{main.url}", "REAL": "{env.DB}", "HOT": "{file.secret}", "DEBUG": "1"},
                }
            },
        }
    )
    environment = {"DB": "postgresql+asyncpg://u:password@db/x", "HOME": "/x", "DEBUG": "redis://not-seen"}
    found = real_data(declared, environment, tmp_path)
    assert found == ("databases.old.url", "caches.far", "services.web.env.REAL", "services.web.env.HOT", "$DB")
    assert real_data(system(web={"app": "a:b", "routes": ["/"]}), {"HOME": "/x"}, tmp_path) == ()


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/", True),
        ("http://127.0.0.77/", True),
        ("http://localhost:8000/", True),
        ("http://[::1]:8000/", True),
        ("http://0.0.0.0:8000/", True),
        ("unix:/run/app.sock:/", True),
        ("http://192.0.2.7/", False),  # set aside for documents: nobody's
        ("https://[2001:db8::7]/", False),
        ("http://nobody.invalid/", True),  # nobody can be loaded there; another error says so
    ],
)
def test_a_target_is_here_or_somewhere_else(url: str, here: bool) -> None:
    assert is_here(parse_target(url)) == here
