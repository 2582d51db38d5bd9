"""All checks, in the order in which they run: what the others need comes first."""

from typing import Final

from corral.runtime.conformance.checks import (
    boxes,
    deaths,
    executions,
    files,
    input_,
    isolation,
    lists,
    nested,
    output,
    pipes,
    ports,
    snapshots,
    terminals,
)
from corral.runtime.conformance.suite import Check

CHECKS: Final[tuple[Check, ...]] = tuple(
    check
    for module in (
        *(boxes, executions, output, input_, terminals, pipes),
        *(files, lists, ports, snapshots, deaths, isolation, nested),
    )
    for check in module.GROUP.checks
)
