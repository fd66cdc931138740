"""The few PostgreSQL messages it takes to ask a server whether it is there and lets us in. Pure: bytes in, bytes out.

A look every few seconds must not cost a process, and the client programs of the wheel cannot speak TLS; a start-up
packet and the answer to it tell nearly all that Headway needs, and a query of one row the rest. Everything else is
psql's and the drivers'.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import unicodedata
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

# A server's answers before the first query are a few hundred bytes; whoever sends more is no PostgreSQL.
MESSAGE_MAX_BYTES = 64 * 1024
_SCRAM_ITERATIONS_MAX = 1_000_000

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
TERMINATE = b"X" + struct.pack("!i", 4)


class NotPostgresql(ValueError):
    """What answered does not speak PostgreSQL's protocol, or not as agreed; the text says how."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the server: its kind ("R", "E", "S", …) and its body."""

    kind: str
    body: bytes

    @property
    def number(self) -> int:
        """The leading 32-bit number of an authentication message."""
        if len(self.body) < 4:
            raise NotPostgresql("a message is too short")
        return int(struct.unpack_from("!i", self.body)[0])


def startup(user: str, database: str) -> bytes:
    """The first message of a connection (protocol 3.0)."""
    pairs = (("user", user), ("database", database), ("application_name", "headway"))
    body = b"".join(key.encode() + b"\0" + value.encode() + b"\0" for key, value in pairs) + b"\0"
    return struct.pack("!ii", len(body) + 8, 196608) + body


def password_message(body: bytes) -> bytes:
    """An answer to a request for authentication."""
    return b"p" + struct.pack("!i", len(body) + 4) + body


def query(sql: str) -> bytes:
    """A simple query."""
    body = sql.encode() + b"\0"
    return b"Q" + struct.pack("!i", len(body) + 4) + body


def row(body: bytes) -> tuple[str, ...]:
    """The columns of a row as text, NULL as empty text."""
    columns, place = [], 2
    try:
        for _ in range(struct.unpack_from("!h", body)[0]):
            length = struct.unpack_from("!i", body, place)[0]
            place += 4
            columns.append(body[place : place + max(0, length)].decode(errors="replace"))
            place += max(0, length)
    except struct.error as error:
        raise NotPostgresql("a row is cut short") from error
    return tuple(columns)


def split_message(buffer: bytes) -> tuple[Message, bytes] | None:
    """The first message of `buffer` and what follows it; None when it is not complete yet."""
    if len(buffer) < 5:
        return None
    length = struct.unpack_from("!i", buffer, 1)[0]
    if not 4 <= length <= MESSAGE_MAX_BYTES:
        raise NotPostgresql("what answers there is not PostgreSQL")
    if len(buffer) < length + 1:
        return None
    return Message(chr(buffer[0]), buffer[5 : length + 1]), buffer[length + 1 :]


def error_fields(body: bytes) -> dict[str, str]:
    """The fields of an error by their letter: C is the SQLSTATE, M the message, S the severity."""
    fields = {}
    for part in body.split(b"\0"):
        if part:
            fields[chr(part[0])] = part[1:].decode(errors="replace")
    return fields


def parameter(body: bytes) -> tuple[str, str]:
    """Name and value of a parameter status message."""
    name, _, value = body.partition(b"\0")
    return name.decode(errors="replace"), value.rstrip(b"\0").decode(errors="replace")


def md5_answer(user: str, password: str, salt: bytes) -> bytes:
    """The body that answers a request for an md5 password."""
    inner = hashlib.md5((password + user).encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode() + b"\0"


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    # SASLprep, as far as it matters for a password that a person types: compatibility composition.
    return hashlib.pbkdf2_hmac("sha256", unicodedata.normalize("NFKC", password).encode(), salt, iterations)


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def scram_verifier(password: str, salt: bytes, iterations: int = 4096) -> str:
    """What PostgreSQL stores for a password, so that the password itself never travels into its statements or logs."""
    salted = _salted(password, salt, iterations)
    stored = hashlib.sha256(_mac(salted, b"Client Key")).digest()
    server = _mac(salted, b"Server Key")
    parts = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{parts[0]}${parts[1]}:{parts[2]}"


@dataclass(frozen=True, slots=True)
class Scram:
    """The client's side of a SCRAM-SHA-256 login (RFC 5802, no channel binding); `nonce` is fresh for each login."""

    nonce: str
    password: str = field(repr=False)
    user: str = ""  # PostgreSQL takes the one of the start-up message

    @property
    def _bare(self) -> str:
        return f"n={self.user},r={self.nonce}"

    def first(self) -> bytes:
        """The body of the first answer."""
        text = f"n,,{self._bare}".encode()
        return b"SCRAM-SHA-256\0" + struct.pack("!i", len(text)) + text

    def final(self, challenge: bytes) -> tuple[bytes, bytes]:
        """The body of the second answer, and the proof that the server then has to send."""
        try:
            values = dict(part.split("=", 1) for part in challenge.decode().split(","))
            nonce, salt, iterations = values["r"], b64decode(values["s"]), int(values["i"])
        except (ValueError, KeyError) as error:
            raise NotPostgresql("the server's challenge cannot be read") from error
        if not nonce.startswith(self.nonce) or not 0 < iterations <= _SCRAM_ITERATIONS_MAX:
            raise NotPostgresql("the server's challenge does not belong to this login")
        salted = _salted(self.password, salt, iterations)
        client_key = _mac(salted, b"Client Key")
        without_proof = f"c=biws,r={nonce}"
        signed = f"{self._bare},{challenge.decode()},{without_proof}".encode()
        signature = _mac(hashlib.sha256(client_key).digest(), signed)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        expected = b"v=" + b64encode(_mac(_mac(salted, b"Server Key"), signed))
        return f"{without_proof},p={b64encode(proof).decode()}".encode(), expected
