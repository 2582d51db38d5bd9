"""From which seed fuzzing begins and how long it goes on: FUZZ_SEED and FUZZ_SECONDS, which `make fuzz` sets.

Without them each fuzzing test makes one short round, always the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import hypothesis

SEED: Final = int(os.environ.get("FUZZ_SEED", "20261123"))
SECONDS: Final = float(os.environ.get("FUZZ_SECONDS", "0"))


def rounds() -> Iterator[int]:
    """Yield the seed of each round: one at least, and further ones until the time is over."""
    ends, seed = time.monotonic() + SECONDS, SEED
    while True:
        yield seed
        seed += 1
        if time.monotonic() >= ends:
            return


def run(test: Callable[..., None], seed: int, examples: int, **strategies: Any) -> None:
    """Call `test` with `examples` draws of its arguments. Raises what it finds, with the smallest draw that fails."""
    bounded = hypothesis.settings(
        max_examples=examples, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    hypothesis.seed(seed)(bounded(hypothesis.given(**strategies)(test)))()
