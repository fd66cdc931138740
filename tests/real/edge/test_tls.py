"""HTTPS at the edge: both HTTP versions, the redirect, and a certificate that is changed while connections are open."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from edge_site import Site

from headway.edge.certificate import load_certificate
from headway.edge.errors import EdgeRefused


class TlsSite(Site):
    """A site with an HTTPS listener and a plain one that redirects to it."""

    def __init__(self) -> None:
        super().__init__()
        self.authority = trustme.CA()
        self.trust = ssl.create_default_context()
        self.authority.configure_trust(self.trust)
        self.certificate = self.folder / "edge.pem"

    def issue(self) -> str:
        issued = self.authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.certificate))
        return load_certificate(Path(self.certificate), None)

    def begin(self) -> None:
        self.issue()
        secure = self.listener(tls=True)
        plain = self.listener(redirect_to_port=self.port)
        self.start(self.plan(self.service(), listeners=(secure, plain), certificate=str(self.certificate)))

    def client(self, *, http2: bool) -> httpx.Client:
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=self.trust, http2=http2)

    def serial(self) -> str:
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection,
            self.trust.wrap_socket(connection, server_hostname="localhost") as secured,
        ):
            certificate = secured.getpeercert()
            assert certificate
            return str(certificate["serialNumber"])


@pytest.fixture
def site() -> Iterator[TlsSite]:
    with TlsSite() as site:
        site.begin()
        yield site


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
def test_speaks_both_versions_of_http(site: TlsSite, http2: bool, version: str) -> None:
    with site.client(http2=http2) as client:
        answer = client.post("/x", content=b"hello")
        assert (answer.status_code, answer.http_version) == (200, version)
        headers = {name.lower(): value for name, value in answer.json()["headers"]}
        assert (headers["x-forwarded-proto"], headers["x-forwarded-port"]) == ("https", str(site.port))


def test_refuses_old_tls(site: TlsSite) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=60) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(connection)


def test_the_plain_listener_redirects(site: TlsSite) -> None:
    plain = site.sockets[1].getsockname()[1]
    target = f"https://127.0.0.1:{site.port}/deep/path?query=1"
    for method, status in (("GET", 301), ("HEAD", 301), ("POST", 308)):
        answer = httpx.request(method, f"http://127.0.0.1:{plain}/deep/path?query=1")
        assert (answer.status_code, answer.headers["location"]) == (status, target)


def test_a_certificate_is_swapped_without_a_reload(site: TlsSite) -> None:
    before, process = site.serial(), site.api.process().pid
    with site.client(http2=True) as client:
        assert client.get("/").status_code == 200
        site.api.swap_certificate(str(site.certificate), site.issue())
        assert site.serial() != before
        assert client.get("/").status_code == 200, "the open connection goes on"
    assert site.api.process().pid == process


def test_a_certificate_that_cannot_be_served_changes_nothing(site: TlsSite) -> None:
    before = site.serial()
    with pytest.raises(EdgeRefused):
        site.api.swap_certificate(
            str(site.certificate), "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n"
        )
    assert site.serial() == before
    site.api.swap_certificate(str(site.certificate), site.issue())
    assert site.serial() != before
