"""A query in its one spelling: nothing of it is lost or changed but the order, and the order does not matter."""

from __future__ import annotations

from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from headway.caching.responses.asked import normalised

PAIR = st.text("ab%6=+;1ü", max_size=6)
QUERY = st.lists(PAIR, max_size=6)


def meant(query: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        found.setdefault(name, []).append(value)
    return found


@given(QUERY)
def test_all_parameters_are_there_in_their_order(pairs: list[str]) -> None:
    query = "&".join(pairs)
    one = normalised(query, None)
    assert normalised(one, None) == one
    by_spelling: dict[str, list[str]] = {}
    for pair in filter(None, pairs):
        by_spelling.setdefault(pair.partition("=")[0], []).append(pair)
    assert [pair for _, same in sorted(by_spelling.items()) for pair in same] == [p for p in one.split("&") if p]


@given(QUERY, st.randoms(use_true_random=False))
def test_the_order_of_different_names_does_not_matter(pairs: list[str], random: object) -> None:
    seen: dict[str, str] = {pair.partition("=")[0]: pair for pair in pairs if pair}
    shuffled = list(seen.values())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert normalised("&".join(shuffled), None) == normalised("&".join(seen.values()), None)


@given(QUERY, st.frozensets(st.sampled_from(["a", "b", "ab", "", "ü"])))
def test_the_app_sees_no_parameter_that_does_not_count(pairs: list[str], names: frozenset[str]) -> None:
    query = "&".join(pairs)
    seen = meant(normalised(query, names))
    assert set(seen) <= names
    assert set(meant(query)) & names <= set(seen)
