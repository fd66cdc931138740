"""The messages, against published vectors, and bounded against whatever answers."""

from __future__ import annotations

import base64
import struct

import pytest

from headway.sharding import wire

# RFC 7677, section 3.
_SCRAM = wire.Scram("rOprNGfwEbeRWgbNEkqO", "pencil", user="user")
_CHALLENGE = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def test_scram_login() -> None:
    assert _SCRAM.first().endswith(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    answer, expected = _SCRAM.final(_CHALLENGE)
    assert answer == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert expected == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqO1,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=99999999",
        b"r=rOprNGfwEbeRWgbNEkqO1,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=many",
    ],
)
def test_a_challenge_that_is_none(challenge: bytes) -> None:
    with pytest.raises(wire.NotPostgresql):
        _SCRAM.final(challenge)


def test_verifier_has_postgresqls_form() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    verifier = wire.scram_verifier("pencil", salt)
    assert verifier.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    assert "pencil" not in verifier


def test_messages_are_split_where_they_end() -> None:
    first, second = b"R" + struct.pack("!ii", 8, 0), b"Z" + struct.pack("!i", 5) + b"I"
    whole = first + second
    for cut in range(len(first)):
        assert wire.split_message(whole[:cut]) is None
    assert wire.split_message(whole) == (wire.Message("R", b"\0\0\0\0"), second)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n", b"R\0\0\0\0\0", b"R\x7f\xff\xff\xff"])
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(wire.NotPostgresql):
        wire.split_message(data)


def test_error_fields() -> None:
    assert wire.error_fields(b"SFATAL\0C57P03\0Mstarting up\0\0") == {"S": "FATAL", "C": "57P03", "M": "starting up"}
    assert wire.parameter(b"server_version\x0018.4\0") == ("server_version", "18.4")


def test_a_query_and_its_row() -> None:
    assert wire.query("SELECT 1") == b"Q\x00\x00\x00\x0dSELECT 1\x00"
    body = struct.pack("!hi2si", 2, 2, b"17", -1)
    assert wire.row(body) == ("17", "")
    with pytest.raises(wire.NotPostgresql):
        wire.row(body[:3])
    with pytest.raises(wire.NotPostgresql):
        wire.row(b"\x00")
