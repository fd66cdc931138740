"""What each plan is rendered to, as files to read: a change of the configuration is seen as a change of these files.

After a change on purpose: HEADWAY_GOLDEN=write pytest tests/golden/edge
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from headway.edge.haproxy import find_haproxy, validate
from headway.edge.render import render
from headway.edge.servers import draining_file, learned_file
from headway.model.edge import EdgeClass, EdgePlan, EdgeReplica, EdgeService, Listener
from headway.model.overload import SLOW, QueueBound

HERE = Path(__file__).parent


def replicas(service: str, count: int, disabled: int = 0) -> tuple[EdgeReplica, ...]:
    return tuple(
        EdgeReplica(f"{service}.{number}", f"/run/shop/{service}.{number}.sock", 16, number <= count - disabled)
        for number in range(1, count + 1)
    )


WEB = EdgeService("web", ("/",), replicas("web", 1), deadline_s=30.0, body_max_bytes=2**30)
API = EdgeService("api", ("/api", "api.example.com/v2", "api.example.com"), replicas("api", 2), 5.0, 2**20)
MINIMAL = EdgePlan(
    system="shop",
    run_folder="/run/shop",
    listeners=(Listener("127.0.0.1:8000", 7),),
    services=(WEB,),
    connections_max=10_000,
    descriptors_max=20_000,
)
TLS = (
    Listener("0.0.0.0:443", 7, tls=True),
    Listener("[::]:443", 8, tls=True),
    Listener("0.0.0.0:80", 9, redirect_to_port=443),
)
OVERLOADED = QueueBound(40, overloaded=True, newest_first=True, floor_per_s=5, client_per_s=12)
CLASSES = (
    EdgeClass(SLOW, (), replicas("web", 2), 30.0, bound=QueueBound(8)),
    EdgeClass(2, ("/reports",), replicas("web", 2), 60.0, level=2),
    EdgeClass(3, ("/api/checkout",), replicas("web", 2), 5.0, level=0),
)
SOCKET = Listener("/run/shop/s/web.sock", 203)
CALLED = EdgeService(
    "inventory",
    (),
    replicas("inventory", 2),
    deadline_s=5.0,
    body_max_bytes=2**20,
    classes=(
        EdgeClass(SLOW, (), replicas("inventory", 2), 5.0),
        EdgeClass(2, ("/reports",), replicas("inventory", 2), 60.0, level=0),
    ),
    called_at=(Listener("/run/shop/s/inventory.sock", 201), Listener("127.0.0.1:40001", 202)),
    calls=True,
)

PLANS = {
    "minimal": MINIMAL,
    "two_services": replace(MINIMAL, services=(WEB, API), access_log=False),
    "tls": replace(MINIMAL, listeners=TLS, certificate="/run/shop/certificate.pem"),
    "trusted": replace(MINIMAL, trusted=("10.0.0.0/8", "fd00::/8"), proxy_protocol=True),
    "client_rate": replace(MINIMAL, client_rate_per_s=200.0),
    "client_rate_slow": replace(MINIMAL, client_rate_per_s=0.5),
    "sticky": replace(MINIMAL, services=(replace(WEB, sticky=True, replicas=replicas("web", 2)),)),
    "scaled": replace(MINIMAL, services=(replace(WEB, replicas=replicas("web", 4, disabled=2)),), threads=4),
    "classes": replace(
        MINIMAL, services=(replace(WEB, replicas=replicas("web", 2), bound=OVERLOADED, classes=CLASSES), API)
    ),
    "classes_sticky": replace(
        MINIMAL, services=(replace(WEB, name="my-web", sticky=True, level=3, classes=CLASSES[:1]),), access_log=False
    ),
    "calls": replace(MINIMAL, services=(replace(WEB, calls=True), CALLED), call_connections_max=4096),
    "calls_public": replace(
        MINIMAL,
        listeners=TLS,
        certificate="/run/shop/certificate.pem",
        services=(replace(WEB, calls=True, called_at=(SOCKET,), sticky=True), replace(CALLED, refuses=False)),
        trusted=("10.0.0.0/8",),
        access_log=False,
    ),
    "calls_alone": replace(MINIMAL, listeners=(), services=(replace(CALLED, level=3, classes=()),)),
    "cancel": replace(
        MINIMAL,
        services=(replace(WEB, cancels=True, classes=(CLASSES[0], replace(CLASSES[1], cancels=True))), CALLED),
        call_connections_max=4096,
    ),
    "exports": replace(MINIMAL, services=(replace(WEB, calls=True), CALLED), call_connections_max=4096, exports=True),
    "observe": replace(MINIMAL, services=(replace(WEB, refuses=False),)),
}


@pytest.mark.parametrize("name", PLANS)
def test_is_rendered_as_before(name: str) -> None:
    golden = HERE / f"{name}.cfg"
    rendered = render(PLANS[name])
    if os.environ.get("HEADWAY_GOLDEN") == "write":
        golden.write_text(rendered)
    assert rendered == golden.read_text()


@pytest.mark.parametrize("name", PLANS)
def test_is_valid_for_haproxy(name: str, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    plan = replace(PLANS[name], run_folder=str(tmp_path))
    if plan.certificate is not None:
        trustme = pytest.importorskip("trustme")
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        plan = replace(plan, certificate=str(certificate))
    Path(draining_file(str(tmp_path))).touch()
    for service in plan.services:
        Path(learned_file(str(tmp_path), service.name)).touch()
    config = tmp_path / "haproxy.cfg"
    config.write_text(render(plan))
    validate(find_haproxy().path, str(config))


def test_a_name_cannot_add_a_directive() -> None:
    hostile = replace(MINIMAL, system="shop\n    user root", listeners=(Listener("a\nbind *:1", 7),))
    assert "\n    user root" not in render(hostile)
    assert "\nbind *:1" not in render(hostile)
    with pytest.raises(ValueError, match="control character"):
        render(replace(MINIMAL, trusted=("10.0.0.0/8\nuser root",)))


def test_a_tls_listener_needs_a_certificate() -> None:
    with pytest.raises(ValueError, match="no certificate"):
        render(replace(MINIMAL, listeners=TLS))
