"""Figures of samples."""

from __future__ import annotations


def median(values: list[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
