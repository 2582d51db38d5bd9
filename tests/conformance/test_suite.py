"""The suite itself: a runtime that breaks a promise is found out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from corral.runtime import conformance
from corral.runtime.conformance import Check, CheckResult, Hooks, Outcome
from corral.runtime.conformance.suite import Bench, Broken, raises
from corral.runtime.contract import Box, BoxGone, BoxSpec, ExecSpec, NoSuchExecution, Progress, Stream
from corral.runtime.fake import FakeHost, FakeRuntime


class Forgetful(FakeRuntime):
    """Loses the last byte of all output."""

    def read_output(self, box_id: str, exec_id: str, stream: Stream, offset: int, limit: int) -> bytes:
        size = self.output_size(box_id, exec_id, stream)
        return super().read_output(box_id, exec_id, stream, offset, min(limit, max(0, size - 1 - offset)))


class Eager(FakeRuntime):
    """Starts an id as often as it is asked to."""

    async def execute(self, box_id: str, spec: ExecSpec) -> None:
        await super().execute(box_id, spec)
        await super().execute(box_id, replace(spec, id=f"{spec.id}_again"))


class Deaf(FakeRuntime):
    """Never tells that a command has ended well."""

    async def follow(self, box_id: str, exec_id: str) -> AsyncIterator[Progress]:
        async for progress in super().follow(box_id, exec_id):
            if progress.result is None or progress.result.exit_code:
                yield progress


class Leaky(FakeRuntime):
    """Does not destroy."""

    async def destroy(self, box_id: str) -> None:
        await asyncio.sleep(0)


class Blind(FakeRuntime):
    """Lists no boxes."""

    async def boxes(self) -> list[Box]:
        return []


FLAWS = [
    (Forgetful, "the_streams_are_apart"),
    (Forgetful, "two_thousand_lines_arrive"),
    (Eager, "an_id_starts_one_command"),
    (Deaf, "exit_codes_are_kept"),
    (Leaky, "destroy_leaves_no_box"),
    (Blind, "a_created_box_runs"),
]


def spec_of(box: str) -> BoxSpec:
    return BoxSpec(box, (), "conformance")


async def run_one(
    kind: type[FakeRuntime], root: Path, name: str, differences: dict[str, str] | None = None
) -> CheckResult:
    with FakeHost(root) as host:
        runtime = kind(host)
        await runtime.start()
        hooks = Hooks(kill=lambda box: host.kill_box(box.id), stop=lambda box: host.stop_box(box.id))
        (result,) = await conformance.run(runtime, spec_of, [name], hooks=hooks, differences=differences)
        return result


@pytest.mark.parametrize(("kind", "name"), FLAWS, ids=[f"{kind.__name__}-{name}" for kind, name in FLAWS])
async def test_a_flaw_is_found(kind: type[FakeRuntime], name: str, tmp_path: Path) -> None:
    assert (await run_one(FakeRuntime, tmp_path / "sound", name)).outcome is Outcome.KEPT
    result = await run_one(kind, tmp_path / "flawed", name)
    assert result.outcome is Outcome.BROKEN
    assert result.detail


async def test_a_known_difference_that_is_gone_breaks_the_suite(tmp_path: Path) -> None:
    result = await run_one(FakeRuntime, tmp_path, "exit_codes_are_kept", {"exit_codes_are_kept": "once upon a time"})
    assert result.outcome is Outcome.BROKEN
    assert "once upon a time" in result.detail


async def test_a_hazardous_check_is_not_run_where_it_is_a_known_difference(tmp_path: Path) -> None:
    result = await run_one(
        FakeRuntime, tmp_path, "a_memory_hog_hurts_itself", {"a_memory_hog_hurts_itself": "no limit"}
    )
    assert (result.outcome, result.detail, result.ms) == (Outcome.KNOWN, "no limit", 0.0)


async def test_a_name_that_is_no_check_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no_such_check"):
        await run_one(FakeRuntime, tmp_path, "no_such_check")


async def test_a_failed_clean_up_is_told(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        bench.made.append("dbx_x")
        raise Broken("the promise")

    with FakeHost(tmp_path) as host:
        runtime = FakeRuntime(host)
        host.fail("destroy", OSError("the clean-up"))
        bench = Bench(runtime, spec_of)
        result = await conformance.run_check(Check("name", "promise.", body), bench)
    assert "the promise; then: raised OSError: the clean-up" in result.detail


def test_the_table_shows_each_result_and_the_counts() -> None:
    results = [
        CheckResult("a_check", Outcome.KEPT, 12.3),
        CheckResult("another_check", Outcome.BROKEN, 1500.0, "why"),
        CheckResult("third", Outcome.KNOWN, 0.0, "reason"),
    ]
    lines = conformance.table(results).splitlines()
    assert lines[0].split() == ["a_check", "kept", "12", "ms"]
    assert lines[1].split() == ["another_check", "BROKEN", "1500", "ms", "why"]
    assert lines[3] == "1 kept, 1 broken, 1 known; 1.5 s"
    assert conformance.broken(results)
    assert not conformance.broken(results[:1])


def test_another_error_than_expected_breaks_the_promise() -> None:
    with pytest.raises(Broken, match="raised NoSuchExecution"), raises(BoxGone, "it"):
        raise NoSuchExecution("cannot do it: no")
    with pytest.raises(Broken, match="raised nothing"), raises(BoxGone, "it"):
        pass
    with pytest.raises(Broken, match="does not start with"), raises(BoxGone, "it"):
        raise BoxGone("it failed")
