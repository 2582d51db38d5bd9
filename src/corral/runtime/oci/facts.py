"""What is said of a host: a fact, its verdict and its remedy."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """How a fact bears on running boxes."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing about the host. `remedy` is a sentence or a command; empty when there is nothing to do."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
