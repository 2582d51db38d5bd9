"""The contract as a suite of named checks, each with the promise that it holds a runtime to.

`run` takes any Runtime and a function that makes box specs; `corral conformance` and tests/conformance call it. A
check makes its own boxes and destroys them. Must not know one runtime from another: `Hooks` say what differs.
"""

from corral.runtime.conformance.checks import CHECKS
from corral.runtime.conformance.report import broken, line, table
from corral.runtime.conformance.runner import run
from corral.runtime.conformance.suite import Bench, Broken, Check, CheckResult, Hooks, Outcome, run_check

__all__ = [
    "CHECKS",
    "Bench",
    "Broken",
    "Check",
    "CheckResult",
    "Hooks",
    "Outcome",
    "broken",
    "line",
    "run",
    "run_check",
    "table",
]
