"""Percentiles, and the score of the public start-time leaderboard. Pure functions.

The leaderboard (ComputeSDK) trims 5 % from each end, takes nearest-rank percentiles, and weighs
median, p95 and p99 by 0.60, 0.25 and 0.15 against a ceiling of 10 s; failures scale the score down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CEILING_MS = 10_000.0
WEIGHTS = (0.60, 0.25, 0.15)


@dataclass(frozen=True, slots=True)
class Summary:
    """Raw, untrimmed figures of one series, in its own unit."""

    n: int
    p50: float
    p95: float
    p99: float
    max: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that at least `share` of all values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(values: Sequence[float]) -> Summary:
    """Summarise a series of at least one value."""
    ordered = sorted(values)
    return Summary(
        n=len(ordered),
        p50=percentile(ordered, 0.50),
        p95=percentile(ordered, 0.95),
        p99=percentile(ordered, 0.99),
        max=ordered[-1],
    )


def leaderboard_score(times_ms: Sequence[float], attempted: int) -> float:
    """Score of 0 to 100 for the successful start times out of `attempted` starts."""
    if not times_ms:
        return 0.0
    ordered = sorted(times_ms)
    trim = math.floor(len(ordered) * 0.05)
    kept = ordered[trim : len(ordered) - trim] or ordered
    middle = len(kept) // 2
    median = kept[middle] if len(kept) % 2 else (kept[middle - 1] + kept[middle]) / 2
    figures = (median, percentile(kept, 0.95), percentile(kept, 0.99))
    parts = (max(0.0, 100 * (1 - figure / CEILING_MS)) for figure in figures)
    return round(sum(w * part for w, part in zip(WEIGHTS, parts, strict=True)) * len(times_ms) / attempted, 2)
