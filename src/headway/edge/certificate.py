"""Loads a certificate and its key, checks that they belong together and are valid now, and joins them for HAProxy."""

from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headway.errors import EngineError, MachineError


def load_certificate(certificate: Path, key: Path | None, *, now: datetime | None = None) -> str:
    """Chain and key as one PEM text. MachineError when a file cannot be read, EngineError when they cannot be served.

    `now` is the moment at which it has to be valid: the present by default.
    """
    text = _read(certificate)
    if key is not None:
        text = text.rstrip("\n") + "\n" + _read(key)
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise EngineError(f"{certificate} holds no certificate", hint="it must be PEM: -----BEGIN CERTIFICATE-----")
    if "PRIVATE KEY-----" not in text:
        where = f"{certificate} holds no private key" if key is None else f"{key} holds no private key"
        raise EngineError(where, hint='add it to the file, or name its file: tls = { certificate = "…", key = "…" }')
    if "ENCRYPTED" in text:
        raise EngineError(
            f"the private key of {certificate} is encrypted",
            hint="nobody can type its password here: store it decrypted",
        )
    with tempfile.NamedTemporaryFile("w", prefix="headway-certificate-", suffix=".pem") as file:
        file.write(text)
        file.flush()
        _check_pair(file.name, certificate, key)
        _check_dates(file.name, certificate, now or datetime.now(UTC))
    return text if text.endswith("\n") else text + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise MachineError(
            f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise EngineError(
            f"{path} is not PEM", hint="convert it: openssl x509 -inform der -in FILE -out FILE.pem"
        ) from error


def _check_pair(combined: str, certificate: Path, key: Path | None) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(combined)
    except ssl.SSLError as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            raise EngineError(
                f"the certificate {certificate} and the key {key or 'in it'} do not belong together",
                hint="the key must be the one that the certificate was requested with",
            ) from error
        raise EngineError(
            f"{certificate} cannot be used: {error.reason or error}",
            hint="openssl x509 -in FILE -text shows what it holds",
        ) from error


def _check_dates(combined: str, certificate: Path, now: datetime) -> None:
    # The public API of `ssl` decodes certificates of a connection only.
    decoded: dict[str, Any] = ssl._ssl._test_decode_cert(combined)  # type: ignore[attr-defined]
    begins, ends = (
        datetime.fromtimestamp(ssl.cert_time_to_seconds(str(decoded[edge])), UTC) for edge in ("notBefore", "notAfter")
    )
    if now >= ends:
        raise EngineError(
            f"{certificate} expired on {ends:%Y-%m-%d}", hint="renew it; headway takes up the new file by itself"
        )
    if now < begins:
        raise EngineError(
            f"{certificate} is valid from {begins:%Y-%m-%d} only", hint="check this machine's clock: date"
        )
