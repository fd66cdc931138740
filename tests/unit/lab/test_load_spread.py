"""Latencies in buckets: percentiles that are near enough, in memory that does not grow with the load."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.lab.outcome import percentile
from headway.lab.spread import bucket_of, percentiles_s


@given(st.lists(st.floats(2e-5, 100), min_size=1, max_size=300))
def test_a_percentile_is_within_a_few_percent_of_the_exact_one(latencies_s: list[float]) -> None:
    counts = Counter(map(bucket_of, latencies_s))
    shares = (0.5, 0.9, 0.99)
    for share, found in zip(shares, percentiles_s(counts, *shares), strict=True):
        assert found == pytest.approx(percentile(sorted(latencies_s), share), rel=0.023)


def test_nothing_counted_is_nothing_known() -> None:
    assert percentiles_s({}, 0.5, 0.99) == (None, None)


def test_a_day_of_any_latencies_needs_few_buckets() -> None:
    assert len({bucket_of(10.0 ** (power / 1000)) for power in range(-6000, 2000)}) < 400
    assert bucket_of(0.0) == bucket_of(1e-6) == 0
