"""The figures are computed as the public leaderboard and the usual definitions have them."""

from __future__ import annotations

import pytest
from bench import stats


def test_percentiles_are_of_the_nearest_rank() -> None:
    ordered = [float(value) for value in range(1, 101)]
    assert (stats.percentile(ordered, 0.50), stats.percentile(ordered, 0.95), stats.percentile(ordered, 0.99)) == (
        50,
        95,
        99,
    )
    assert stats.percentile([7.0], 0.99) == 7


def test_a_summary_keeps_the_raw_tail() -> None:
    summary = stats.summary([1.0] * 99 + [1000.0])
    assert (summary.p50, summary.p99, summary.max) == (1, 1, 1000)


@pytest.mark.parametrize(
    ("times", "attempted", "score"),
    [
        ([0.0] * 10, 10, 100.0),  # nothing can be faster
        ([10_000.0] * 10, 10, 0.0),  # the ceiling
        ([1_000.0] * 10, 10, 90.0),  # 10 % of the ceiling costs 10 points
        ([1_000.0] * 5, 10, 45.0),  # every second start failed
        ([], 10, 0.0),
    ],
)
def test_the_score_is_the_leaderboards(times: list[float], attempted: int, score: float) -> None:
    assert stats.leaderboard_score(times, attempted) == score


def test_the_score_trims_five_percent_from_each_end() -> None:
    assert stats.leaderboard_score([0.0] + [1_000.0] * 18 + [60_000.0], 20) == 90.0
