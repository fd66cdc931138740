"""A certificate is served only when it can be: readable, matching its key, and valid now."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from headway.edge.certificate import load_certificate
from headway.errors import EngineError, MachineError


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write(folder: Path, issued: trustme.LeafCert) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return certificate, key


def test_joins_chain_and_key(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, key = write(tmp_path, authority.issue_cert("localhost"))
    pem = load_certificate(certificate, key)
    joined = tmp_path / "joined.pem"
    joined.write_text(pem)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(joined)
    assert load_certificate(joined, None) == pem


def test_tells_a_key_that_belongs_to_another_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, _ = write(tmp_path, authority.issue_cert("localhost"))
    other = tmp_path / "other.pem"
    other.write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
    with pytest.raises(EngineError, match="do not belong together"):
        load_certificate(certificate, other)


def test_tells_a_certificate_that_is_not_valid_now(tmp_path: Path, authority: trustme.CA) -> None:
    now = datetime.now(UTC)
    issued = authority.issue_cert("localhost", not_before=now - timedelta(days=1), not_after=now + timedelta(days=1))
    certificate, key = write(tmp_path, issued)
    assert load_certificate(certificate, key)
    with pytest.raises(EngineError, match="expired on"):
        load_certificate(certificate, key, now=now + timedelta(days=2))
    with pytest.raises(EngineError, match="valid from"):
        load_certificate(certificate, key, now=now - timedelta(days=2))


def test_tells_files_that_are_no_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, key = write(tmp_path, authority.issue_cert("localhost"))
    with pytest.raises(MachineError, match="cannot be read: No such file"):
        load_certificate(tmp_path / "nowhere.pem", None)
    with pytest.raises(EngineError, match="no private key") as raised:
        load_certificate(certificate, None)
    assert "key =" in raised.value.hint
    with pytest.raises(EngineError, match="no certificate"):
        load_certificate(key, None)
    binary = tmp_path / "binary.der"
    binary.write_bytes(b"\x30\x82\xff\xfe")
    with pytest.raises(EngineError, match="not PEM"):
        load_certificate(binary, None)
    damaged = tmp_path / "damaged.pem"
    damaged.write_text(certificate.read_text().replace("M", "!", 5))
    with pytest.raises(EngineError, match="cannot be used"):
        load_certificate(damaged, key)
    encrypted = tmp_path / "encrypted.pem"
    kind = key.read_text().split("-----")[1].removeprefix("BEGIN ")
    encrypted.write_text(key.read_text().replace(kind, "ENCRYPTED PRIVATE KEY"))
    with pytest.raises(EngineError, match="encrypted"):
        load_certificate(certificate, encrypted)
