"""What a guest says of itself and of its executions, after checking."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hello:
    """A guest that answers. `claimed` after the first `claim`; `uptime_ms` since the guest began."""

    protocol: int
    version: str
    claimed: bool
    uptime_ms: int


@dataclass(frozen=True, slots=True)
class ExecutionState:
    """An execution that the guest remembers; it forgets ended ones beyond 1,000, oldest first."""

    id: str
    pid: int
    running: bool
    exit_code: int | None
