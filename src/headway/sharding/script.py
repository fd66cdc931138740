"""A schema file is applied in one transaction of ours, so what it says about transactions itself matters. Pure.

`BEGIN` and `COMMIT` of its own would end ours in the middle and with it the promise "exactly once": they are left out,
which changes nothing for a file that wants all of itself applied. What cannot be left out (`ROLLBACK`, `\\connect`)
is reported. Only as much of SQL is read as it takes to find where statements begin: quotes, comments, dollar quotes,
function bodies, the data of COPY.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_TOKEN = re.compile(
    r"""
      (?P<skip> --[^\n]* | "[^"]*" | [eE]'(?:[^'\\]|\\.)*' | '[^']*' )
    | (?P<comment> /\* )
    | (?P<dollar> \$(?:[^\W\d]\w*)?\$ )
    | (?P<meta> \\[^\n]* )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<mark> [();] )
    | (?P<other> \S )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_COPY_END = re.compile(r"^\\\.[ \t\r]*$", re.MULTILINE)
# The words kept of a statement: enough to tell COPY … FROM STDIN and CREATE … BEGIN ATOMIC.
_WORDS_MAX = 200

_LEFT_OUT = {"BEGIN", "START TRANSACTION", "COMMIT", "END"}
_REFUSED = {"ROLLBACK", "ABORT", "PREPARE TRANSACTION"}


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement or psql command: its leading words in capitals, and where it is (`end` after its semicolon)."""

    words: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Script:
    """A file to apply in one transaction: its text, as long as before; `left_out` are lines of BEGIN or COMMIT."""

    text: str
    left_out: tuple[int, ...]
    refused: tuple[tuple[int, str], ...]  # line and word of what cannot be applied in one transaction


def single_transaction(sql: str) -> Script:
    """The script as it can be applied within one transaction."""
    text, position = [], 0
    left_out: list[int] = []
    refused: list[tuple[int, str]] = []
    for statement in statements(sql):
        word = _about_transaction(statement.words)
        if not word:
            continue
        line = sql.count("\n", 0, statement.start) + 1
        if word in _LEFT_OUT:
            left_out.append(line)
            text += [sql[position : statement.start], re.sub(r"[^\n]", " ", sql[statement.start : statement.end])]
            position = statement.end
        else:
            refused.append((line, word))
    return Script("".join([*text, sql[position:]]), tuple(left_out), tuple(refused))


def _about_transaction(words: tuple[str, ...]) -> str:
    """The word that begins, ends or leaves a transaction; empty for any other statement."""
    first, second = (*words, "", "")[:2]
    if first in ("\\c", "\\connect"):
        return "\\connect"
    if first == "ROLLBACK":
        # Back to a savepoint stays within the transaction: ROLLBACK [WORK | TRANSACTION] TO …
        return "" if "TO" in words[1:3] else first
    if first in ("START", "PREPARE") and second == "TRANSACTION":
        return f"{first} {second}"
    if first == "COMMIT" and second == "PREPARED":
        return ""
    return first if first in _LEFT_OUT | _REFUSED else ""


def statements(sql: str) -> Iterator[Statement]:
    """The statements of a psql script, in order."""
    words: list[str] = []
    start = -1
    parentheses = bodies = position = 0
    while match := _TOKEN.search(sql, position):
        position = match.end()
        kind, token = match.lastgroup, match.group()
        if kind == "comment":
            position = _comment_end(sql, position)
            continue
        if kind == "skip" and token.startswith("--"):
            continue
        if kind == "meta":
            # A psql command takes the rest of the line; after words (\gexec, \gset) it ends their statement.
            first = token.split()[0]
            yield Statement((*words, first) if words else (first,), match.start() if start < 0 else start, position)
            words, start, parentheses, bodies = [], -1, 0, 0
            continue
        if start < 0 and token != ";":
            start = match.start()
        if kind == "dollar":
            end = sql.find(token, position)
            position = len(sql) if end < 0 else end + len(token)
        elif kind == "word":
            word = token.upper()
            bodies = max(0, bodies + _body_change(words, word, bodies))
            if len(words) < _WORDS_MAX or word in ("ATOMIC", "BEGIN"):
                words.append(word)
        elif token in "()":
            parentheses = max(0, parentheses + (1 if token == "(" else -1))
        elif token == ";" and not parentheses and not bodies and start >= 0:
            yield Statement(tuple(words), start, position)
            if words[:1] == ["COPY"] and _reads_stdin(words):
                position = _copy_end(sql, position)
            words, start = [], -1
    if start >= 0:
        yield Statement(tuple(words), start, len(sql))


def _body_change(words: list[str], word: str, bodies: int) -> int:
    """How a word changes the depth of SQL-standard function bodies: CREATE … BEGIN ATOMIC … CASE … END … END."""
    if words[:1] != ["CREATE"]:
        return 0
    if word == "ATOMIC" and words[-1] == "BEGIN":
        return 1
    if not bodies:
        return 0
    return {"CASE": 1, "END": -1}.get(word, 0)


def _reads_stdin(words: list[str]) -> bool:
    return ("FROM", "STDIN") in pairwise(words)


def _copy_end(sql: str, position: int) -> int:
    """After the data of a COPY FROM STDIN: behind its line `\\.`."""
    match = _COPY_END.search(sql, position)
    return match.end() if match else len(sql)


def _comment_end(sql: str, position: int) -> int:
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(sql, position)):
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return position if not depth else len(sql)
