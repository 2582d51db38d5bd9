"""The results of checks as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from corral.runtime.conformance.suite import CheckResult, Outcome

_MARKS: Final = {Outcome.KEPT: "kept", Outcome.BROKEN: "BROKEN", Outcome.KNOWN: "known"}


def line(result: CheckResult, width: int = 60) -> str:
    """One result on one line: check, result, milliseconds, and why."""
    why = f"  {result.detail}" if result.detail else ""
    return f"{result.name:<{width}} {_MARKS[result.outcome]:<7} {result.ms:>8.0f} ms{why}"


def table(results: Sequence[CheckResult]) -> str:
    """All results, a line each, then the counts."""
    width = max((len(result.name) for result in results), default=0)
    counts = Counter(result.outcome for result in results)
    total = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome)
    seconds = sum(result.ms for result in results) / 1000
    return "\n".join([*(line(result, width) for result in results), f"{total}; {seconds:.1f} s"])


def broken(results: Sequence[CheckResult]) -> bool:
    """Whether any promise was broken: the exit code of `corral conformance`."""
    return any(result.outcome is Outcome.BROKEN for result in results)
