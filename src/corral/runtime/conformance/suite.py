"""What a check is and how checks are run. Must not hold checks itself: see `checks`."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal as signals
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from corral.core.clock import Clock, SystemClock
from corral.core.ids import Ids
from corral.runtime.contract import (
    Box,
    BoxSpec,
    ByteStream,
    ExecResult,
    ExecSpec,
    FileProblem,
    FileProblemKind,
    FileReader,
    Limits,
    Runtime,
    RuntimeFailure,
    Stream,
)

#: No check may last longer; a hang is a broken promise too.
CHECK_LIMIT_S: Final = 60.0
COMMAND_LIMIT_S: Final = 30.0
POLL_S: Final = 0.02

SpecFactory = Callable[[str], BoxSpec]


class Broken(AssertionError):
    """A promise of the contract was not kept."""


def expect(kept: object, message: str) -> None:
    """Raise Broken with `message` unless `kept` is true."""
    if not kept:
        raise Broken(message)


def expect_equal(actual: object, expected: object, what: str) -> None:
    """Raise Broken unless both are equal; long values are shortened in the message."""
    if actual != expected:
        raise Broken(f"{what}: {_short(actual)}, expected {_short(expected)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:150]}…({len(text)} characters)"


@contextlib.contextmanager
def raises(kind: type[RuntimeFailure], what: str) -> Iterator[None]:
    """The block must raise `kind`, with a message of the contract's form."""
    try:
        yield
    except kind as error:
        expect(
            error.message.startswith("cannot "), f"{what}: the message {error.message!r} does not start with `cannot`"
        )
    except RuntimeFailure as error:
        raise Broken(f"{what}: raised {type(error).__name__} ({error}), expected {kind.__name__}") from error
    else:
        raise Broken(f"{what}: raised nothing, expected {kind.__name__}")


@contextlib.contextmanager
def problem(*kinds: FileProblemKind, what: str) -> Iterator[None]:
    """The block must raise FileProblem of one of `kinds`."""
    try:
        yield
    except FileProblem as error:
        names = " or ".join(kinds)
        expect(error.kind in kinds, f"{what}: FileProblem of kind {error.kind} ({error}), expected {names}")
    except RuntimeFailure as error:
        raise Broken(f"{what}: raised {type(error).__name__} ({error}), expected FileProblem") from error
    else:
        raise Broken(f"{what}: raised nothing, expected FileProblem of kind {' or '.join(kinds)}")


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a check cannot do by the contract alone.

    `kill` ends a box from outside and `stop` makes its guest hang, by default with SIGKILL and SIGSTOP to its
    process 1. `reopen` closes the runtime and returns a started one on the same host, by default the same object.
    """

    kill: Callable[[Box], None] = lambda box: os.kill(box.pid, signals.SIGKILL)
    stop: Callable[[Box], None] = lambda box: os.kill(box.pid, signals.SIGSTOP)
    reopen: Callable[[Runtime], Awaitable[Runtime]] | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended."""

    result: ExecResult
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output without surrounding white space."""
        return self.stdout.decode(errors="replace").strip()


@dataclass
class Bench:
    """What a check works with. It destroys the boxes that it made."""

    runtime: Runtime
    factory: SpecFactory
    hooks: Hooks = field(default_factory=Hooks)
    clock: Clock = field(default_factory=SystemClock)
    made: list[str] = field(default_factory=list)

    def new_id(self, prefix: str = "dbx") -> str:
        return Ids(self.clock).new(prefix)

    def spec(self, *, limits: Limits | None = None, env: Mapping[str, str] | None = None) -> BoxSpec:
        """The spec of a new box, which is destroyed when the check ends."""
        box_id = self.new_id()
        self.made.append(box_id)
        spec = self.factory(box_id)
        return replace(spec, limits=limits or spec.limits, env=spec.env if env is None else {**spec.env, **env})

    async def box(self, *, limits: Limits | None = None, env: Mapping[str, str] | None = None) -> str:
        """A new running box's id."""
        return (await self.runtime.create(self.spec(limits=limits, env=env))).id

    async def start(self, box: str, spec: ExecSpec) -> str:
        await self.runtime.execute(box, spec)
        return spec.id

    def command(self, *argv: str, **fields: object) -> ExecSpec:
        """An ExecSpec with a new id; `fields` are its other fields."""
        return replace(ExecSpec(id=self.new_id("exe"), argv=argv), **fields)  # type: ignore[arg-type]

    async def run(self, box: str, *argv: str, **fields: object) -> Ran:
        """Run a command to its end."""
        return await self.finish(box, await self.start(box, self.command(*argv, **fields)))

    async def sh(self, box: str, script: str, **fields: object) -> Ran:
        """Run a bash script (not a login shell) to its end."""
        return await self.run(box, "bash", "-c", script, **fields)

    async def start_sh(self, box: str, script: str, **fields: object) -> str:
        """Start a bash script; return the execution's id."""
        return await self.start(box, self.command("bash", "-c", script, **fields))

    async def finish(self, box: str, exec_id: str, limit_s: float = COMMAND_LIMIT_S) -> Ran:
        """Follow to the end and read all output."""
        result: ExecResult | None = None
        try:
            async with asyncio.timeout(limit_s):
                async for progress in self.runtime.follow(box, exec_id):
                    result = progress.result
        except TimeoutError as error:
            raise Broken(f"the command had not ended after {limit_s} s") from error
        if result is None:
            raise Broken("follow ended without a result")
        return Ran(result, self.output(box, exec_id, Stream.STDOUT), self.output(box, exec_id, Stream.STDERR))

    def output(self, box: str, exec_id: str, stream: Stream = Stream.STDOUT) -> bytes:
        """All of the stream that is in the spool now."""
        data = bytearray()
        while chunk := self.runtime.read_output(box, exec_id, stream, len(data), 1 << 20):
            data += chunk
        return bytes(data)

    async def until(self, true: Callable[[], object | Awaitable[object]], what: str, limit_s: float = 10.0) -> None:
        """Wait until `true()` (or what it awaits) holds."""
        deadline = self.clock.monotonic() + limit_s
        while True:
            value = true()
            if await value if isinstance(value, Awaitable) else value:
                return
            expect(self.clock.monotonic() < deadline, f"{what}: not so after {limit_s} s")
            await self.clock.sleep(POLL_S)

    async def until_output(self, box: str, exec_id: str, text: bytes, limit_s: float = 10.0) -> None:
        """Wait until standard output contains `text`."""
        await self.until(lambda: text in self.output(box, exec_id), f"output contains {text!r}", limit_s)

    async def write(
        self, box: str, path: str, data: bytes, *, user: str | None = None, mode: int | None = None
    ) -> int:
        return await self.runtime.write_file(box, path, chunks(data), user=user, mode=mode)

    async def read(self, box: str, path: str, *, user: str | None = None) -> bytes:
        reader = await self.runtime.read_file(box, path, user=user)
        return await read_all(reader)

    async def reopen(self) -> None:
        """Restart the server's side."""
        if self.hooks.reopen is not None:
            self.runtime = await self.hooks.reopen(self.runtime)
            return
        await self.runtime.close()
        await self.runtime.start()

    async def kill(self, box: str) -> None:
        """End the box from outside and wait until the runtime has seen it."""
        self.hooks.kill(await self.runtime.inspect(box))

        async def dead() -> bool:
            return (await self.runtime.inspect(box)).status == "dead"

        await self.until(dead, "a killed box is dead")

    async def clean_up(self) -> None:
        """Destroy what was made, and its spool."""
        for box in self.made:
            await self.runtime.destroy(box)
            await self.runtime.forget_output(box)


async def chunks(data: bytes, size: int = 256 * 1024) -> AsyncIterator[bytes]:
    """`data` in pieces of `size` bytes."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read_all(reader: FileReader) -> bytes:
    """Everything that the reader gives; closes it."""
    try:
        return b"".join([chunk async for chunk in reader])
    finally:
        await reader.close()


async def read_until(stream: ByteStream, text: bytes, limit_s: float = 10.0) -> bytes:
    """Read until `text` has come; Broken when it does not come in time or the stream ends."""
    data = bytearray()
    searched = 0
    try:
        async with asyncio.timeout(limit_s):
            while data.find(text, searched) < 0:
                # All of it again for each piece is quadratic: a reader so slow is dropped by the guest.
                searched = max(0, len(data) - len(text) + 1)
                chunk = await stream.read()
                expect(chunk, f"the stream ended before {text!r}: {_short(bytes(data))}")
                data += chunk
    except TimeoutError as error:
        raise Broken(f"{text!r} did not come in {limit_s} s: {_short(bytes(data))}") from error
    return bytes(data)


async def read_to_end(stream: ByteStream, limit_s: float = 10.0) -> bytes:
    """Read until the other side closes."""
    data = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            while chunk := await stream.read():
                data += chunk
    except TimeoutError as error:
        raise Broken(f"the stream did not end in {limit_s} s: {_short(bytes(data))}") from error
    return bytes(data)


# ---------------------------------------------------------------- running


@dataclass(frozen=True, slots=True)
class Check:
    """One promise. `hazardous` ones would harm a host on which boxes are not isolated or limited."""

    name: str
    promise: str
    body: Callable[[Bench], Awaitable[None]]
    hazardous: bool = False


class Group:
    """Collects the checks of one module, in their order."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def check(self, body: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        """Add a check: its name is the function's, its promise the docstring."""
        self._add(body, hazardous=False)
        return body

    def hazardous(self, body: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        """Add a check that must not run where boxes are not isolated."""
        self._add(body, hazardous=True)
        return body

    def _add(self, body: Callable[[Bench], Awaitable[None]], *, hazardous: bool) -> None:
        promise = " ".join((body.__doc__ or "").split())
        self.checks.append(Check(getattr(body, "__name__", ""), promise, body, hazardous=hazardous))


class Outcome(enum.StrEnum):
    """What became of a check."""

    KEPT = "kept"
    BROKEN = "broken"
    KNOWN = "known"  #: not kept, or not tried, for the reason that `differences` gives


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`detail` is why the promise was broken, or the reason of a known difference."""

    name: str
    outcome: Outcome
    ms: float
    detail: str = ""


async def run_check(check: Check, bench: Bench, difference: str | None = None) -> CheckResult:
    """Run one check and clean up after it. Never raises but for a cancel."""
    started = bench.clock.monotonic()
    if difference is not None and check.hazardous:
        return CheckResult(check.name, Outcome.KNOWN, 0.0, difference)
    detail = await _detail(check, bench)
    ms = (bench.clock.monotonic() - started) * 1000
    if difference is not None:
        if detail:
            return CheckResult(check.name, Outcome.KNOWN, ms, difference)
        return CheckResult(check.name, Outcome.BROKEN, ms, f"kept, but listed as a difference: {difference}")
    return CheckResult(check.name, Outcome.BROKEN if detail else Outcome.KEPT, ms, detail)


async def _detail(check: Check, bench: Bench) -> str:
    """Why the promise was broken, or leftovers remained; empty when all is well."""
    details: list[str] = []
    for part in (partial(check.body, bench), bench.clean_up):
        try:
            async with asyncio.timeout(CHECK_LIMIT_S):
                await part()
        except TimeoutError:
            details.append("timed out")
        except Broken as error:
            details.append(str(error))
        # A runtime under test may raise anything; whatever it is becomes the check's result.
        except Exception as error:  # noqa: BLE001
            details.append(f"raised {type(error).__name__}: {error}")
    return "; then: ".join(details)
