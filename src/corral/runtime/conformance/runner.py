"""Running the suite, or part of it, against one runtime. Must not print; `on_result` gets each result as it comes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from corral.runtime.conformance.checks import CHECKS
from corral.runtime.conformance.suite import Bench, Check, CheckResult, Hooks, SpecFactory, run_check
from corral.runtime.contract import Runtime


async def run(
    runtime: Runtime,
    factory: SpecFactory,
    only: Collection[str] | None = None,
    *,
    checks: Iterable[Check] = CHECKS,
    hooks: Hooks | None = None,
    differences: Mapping[str, str] | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
) -> list[CheckResult]:
    """Run the checks, or those that `only` names, one after another against a started runtime.

    `factory` makes the spec of a box from its id. `differences` maps names of checks that the runtime is known not to
    pass to the reasons. Raises ValueError when `only` or `differences` name a check that there is not.
    """
    checks, differences = tuple(checks), differences or {}
    unknown = ({*(only or ()), *differences}) - {check.name for check in checks}
    if unknown:
        message = f"cannot run checks: there is none called {', '.join(sorted(unknown))}"
        raise ValueError(message)
    results: list[CheckResult] = []
    for check in checks:
        if only is None or check.name in only:
            bench = Bench(runtime, factory, hooks or Hooks())
            result = await run_check(check, bench, differences.get(check.name))
            runtime = bench.runtime
            results.append(result)
            if on_result is not None:
                on_result(result)
    return results
