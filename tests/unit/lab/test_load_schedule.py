"""Schedules as people write them."""

from __future__ import annotations

import pytest

from headway.errors import HeadwayError
from headway.lab.schedule import PIECES_MAX, Piece, parse_schedule


@pytest.mark.parametrize(
    ("texts", "pieces"),
    [
        (["100 for 10s"], [(10, 100, 100)]),
        (["100 for 10s, 1000 for 3s,100 for 1m30s"], [(10, 100, 100), (3, 1000, 1000), (90, 100, 100)]),
        (["100 for 10s", "0..50.5 for 500ms"], [(10, 100, 100), (0.5, 0, 50.5)]),
        (["100 200 400 for 10s each"], [(10, 100, 100), (10, 200, 200), (10, 400, 400)]),
    ],
)
def test_what_is_written_is_what_is_sent(texts: list[str], pieces: list[tuple[float, float, float]]) -> None:
    assert [(p.duration_s, p.from_per_s, p.to_per_s) for p in parse_schedule(texts)] == pieces


@pytest.mark.parametrize(
    "text",
    ["", "100", "100 for", "for 10s", "100 for ten", "100 for 10", "-1 for 3s", "100.. for 3s", "1 for 0s", "1 for 1s,",
     "1..2..3 for 1s", "100 200..300 for 3s", ",".join(["1 for 1s"] * (PIECES_MAX + 1))],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(HeadwayError, match="--schedule") as caught:
        parse_schedule([text])
    assert "1000 for 3s" in caught.value.hint


def test_a_piece_reads_as_a_person_would_say_it() -> None:
    assert str(Piece(10, 100, 100)) == "100/s for 10 s"
    assert str(Piece(60, 100, 1000)) == "100..1000/s for 60 s"
