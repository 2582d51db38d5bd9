"""Builds that build nothing: what blueprints ask of `corral.images.builds`, as a memory that tests move on.

Real builds are in tests/acceptance; here are the states that they can be in, at the moment that a test wants.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import sqlalchemy as sa

from corral.core import errors, events
from corral.core.store.store import Store
from corral.images.builds.model import (
    Build,
    BuildFailure,
    BuildLine,
    BuildLogLevel,
    BuildPlan,
    BuildStatus,
    FailureReason,
)

FAILURE = BuildFailure(FailureReason.BUILD_FAILED, "step 2 exited with code 3", 2, "RUN exit 3", 3, "so it is\n")


class MemoryBuilds:
    """See `corral.images.builds.service.Builds`. With `at_once` a build is complete when it is requested."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.plans: dict[str, BuildPlan] = {}
        self.builds: dict[str, Build] = {}
        self.wanted: dict[str, set[str]] = defaultdict(set)
        self.lines: dict[str, list[BuildLine]] = defaultdict(list)

    def request(self, connection: sa.Connection, plan: BuildPlan) -> Build:
        """The build of the same plan, or a new one."""
        if "# refused" in plan.dockerfile:
            raise errors.Invalid("cannot build an image: its Dockerfile has no step")
        same = replace(plan, wanted_by="")
        for build_id, other in self.plans.items():
            if replace(other, wanted_by="") == same and self.builds[build_id].status is not BuildStatus.FAILED:
                self.wanted[build_id].add(plan.wanted_by)
                return self.builds[build_id]
        build_id = f"bld_{len(self.builds):021}"
        self.plans[build_id] = plan
        self.wanted[build_id].add(plan.wanted_by)
        self.builds[build_id] = Build(build_id, plan.account_id, BuildStatus.QUEUED, created_at_ms=1)
        if self.at_once:
            self.builds[build_id] = ended(self.builds[build_id], BuildStatus.COMPLETE)
        events.append(connection, at_ms=1, subject=build_id, kind=f"build.{self.builds[build_id].status.value}")
        return self.builds[build_id]

    def release(self, connection: sa.Connection, account_id: str, build_id: str, wanted_by: str) -> None:
        """Nothing is removed: tests look at `wanted`."""
        self.get(connection, account_id, build_id)
        self.wanted[build_id].discard(wanted_by)

    def get(self, connection: sa.Connection, account_id: str, build_id: str) -> Build:
        """The build as the test has it."""
        build = self.builds.get(build_id)
        if build is None or build.account_id != account_id:
            raise errors.NotFound(f"cannot find build {build_id}")
        return build

    async def logs(self, account_id: str, build_id: str, *, after: int = 0) -> list[BuildLine]:
        """The lines that the test wrote."""
        return self.lines[build_id][after:]

    def say(self, build_id: str, message: str) -> None:
        """Write a line of the log."""
        lines = self.lines[build_id]
        lines.append(BuildLine(len(lines) + 1, BuildLogLevel.INFO, 1, message))

    async def move(self, store: Store, build_id: str, status: BuildStatus) -> None:
        """The build is there now, and says so."""
        self.builds[build_id] = ended(self.builds[build_id], status)
        await store.write(
            lambda connection: events.append(connection, at_ms=2, subject=build_id, kind=f"build.{status.value}")
        )


def ended(build: Build, status: BuildStatus) -> Build:
    """The build in this state."""
    if status is BuildStatus.COMPLETE:
        return replace(build, status=status, ended_at_ms=5, image=f"built-{build.id[-4:]}")
    if status is BuildStatus.FAILED:
        return replace(build, status=status, ended_at_ms=5, failure=FAILURE)
    return replace(build, status=status)
