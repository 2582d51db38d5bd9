"""The client against a guest that sends anything: each call ends in time, with an error of the contract or none."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import struct
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop
from hypothesis import strategies as st

from corral.runtime import contract
from corral.runtime.contract import (
    BoxExhausted,
    BoxGone,
    BoxUnresponsive,
    ByteStream,
    ExecSpec,
    FileReader,
    TerminalSize,
    User,
)
from corral.runtime.guest import GuestClient, follow, protocol
from tests.harness import fuzzing
from tests.unit.runtime.guest.fake_guest import frame
from tests.unit.runtime.guest.hostile import Act, Hostile, listening, open_descriptors

#: What a call may take here, in place of its own 5 to 60 s.
LIMIT_S: Final = 0.06
#: A call has up to five waits of LIMIT_S. The rest is for a machine with other work.
ENDS_S: Final = 15.0
#: What one call may hold at once: a frame, what its JSON becomes, and 10,000 rows.
MEMORY: Final = 64 << 20
EXAMPLES: Final = 200

#: What a consumer takes of a stream that need not end, before it has enough.
ENOUGH: Final = 64

INFO: Final = {"path": "/f", "kind": "file", "size": 3, "mode": 0o644, "mtime": 1.5, "uid": 0, "gid": 0}
ROW: Final = ["n", "file", 1, 0o644, 1.0, 0, 0]
EXECUTION: Final = ["x", 7, False, 0]
GROWTH: Final = {"stdout": 1, "stderr": 2}
HELLO: Final = {"protocol": 1, "version": "0.1.0", "ready": True, "claimed": False, "uptime_ms": 5}

Call = Callable[[GuestClient], Awaitable[object]]


# ---- calls, and what each may raise beside BoxGone, BoxUnresponsive and BoxExhausted


async def _execute(client: GuestClient) -> None:
    with open("/dev/null", "wb") as null:
        spec = ExecSpec(id="x", argv=("true",), env={"A": "b" * 300_000})
        following = await client.execute(spec, (null.fileno(),) * 3, timeout_s=LIMIT_S)
    await _events(following)


async def _wait(client: GuestClient) -> None:
    await _events(await client.wait("x", timeout_s=LIMIT_S))


async def _events(following: follow.Following) -> None:
    left = 12
    async with following, contextlib.aclosing(following.events()) as events:  # type: ignore[type-var] # a generator
        async for progress in events:
            assert 0 <= progress.stdout <= 1 << 62
            left -= 1
            if not left:
                return


async def _stream(stream: ByteStream) -> None:
    """Read a stream that may be silent for ever, as its consumers do: for as long as they like."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                await stream.write(b"x" * 300_000)
                for _ in range(ENOUGH):
                    if not await stream.read(1000):
                        break
    finally:
        await stream.close()


async def _attach(client: GuestClient) -> None:
    await _stream(await client.attach("x", timeout_s=LIMIT_S))


async def _connect(client: GuestClient) -> None:
    await _stream(await client.connect(80, timeout_s=LIMIT_S))


async def _read(client: GuestClient) -> None:
    reader = await client.read_file("/f", limit=100_000, timeout_s=LIMIT_S)
    got, left = 0, ENOUGH
    try:
        async with contextlib.aclosing(aiter(reader)) as chunks:  # type: ignore[type-var] # a generator
            async for chunk in chunks:
                got += len(chunk)
                left -= 1
                if not left:
                    break
    finally:
        await reader.close()
    assert got <= 100_000


async def _write(client: GuestClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 300_000
        yield b"y"

    await client.write_file("/f", chunks(), timeout_s=LIMIT_S)


def _quick(name: str, *arguments: object, **options: object) -> Call:
    return lambda client: getattr(client, name)(*arguments, timeout_s=LIMIT_S, **options)


OF_AN_EXECUTION: Final = (contract.NoSuchExecution, contract.ExecutionEnded)
OF_STARTING: Final = (*OF_AN_EXECUTION, contract.BadCommand)
OF_FILES: Final = (contract.FileProblem, contract.BadCommand)

#: Each call with what it may raise of its own, and with the beginning of an honest answer.
CALLS: Final[dict[str, tuple[Call, tuple[type[Exception], ...], bytes]]] = {
    "hello": (_quick("hello"), (), frame(2, HELLO)),
    "claim": (_quick("claim", hostname="x", user=User("u", 1, 1, "/")), (contract.BadCommand,), frame(2, {})),
    "park": (_quick("park"), (), frame(2, {})),
    "wake": (_quick("wake"), (), frame(2, {})),
    "execute": (_execute, (contract.BadCommand,), frame(2, {"pid": 7, "known": False}) + frame(4, GROWTH)),
    "wait": (
        _wait,
        (contract.NoSuchExecution, contract.BadCommand),
        frame(2, {"pid": 7, "known": True}) + frame(4, GROWTH),
    ),
    "executions": (_quick("executions"), (), frame(2, {}) + frame(4, {"rows": [EXECUTION]})),
    "signal": (_quick("signal", "x", 9), OF_AN_EXECUTION, frame(2, {})),
    "stdin": (_quick("write_stdin", "x", b"x" * 300_000, close=True), OF_STARTING, frame(2, {"bytes": 1})),
    "resize": (_quick("resize", "x", TerminalSize()), OF_AN_EXECUTION, frame(2, {})),
    "attach": (_attach, OF_STARTING, frame(2, {}) + frame(5, b"$ ")),
    "read": (_read, OF_FILES, frame(2, INFO) + frame(5, b"abc")),
    "write": (_write, OF_FILES, frame(2, {"bytes": 300_001})),
    "list": (_quick("list_files", "/d"), OF_FILES, frame(2, {"path": "/d"}) + frame(4, {"rows": [ROW]})),
    "stat": (_quick("stat", "/f"), OF_FILES, frame(2, INFO)),
    "connect": (_connect, (contract.PortClosed,), frame(2, {})),
}
ALWAYS: Final = (BoxGone, BoxUnresponsive, BoxExhausted)


# ---- what a hostile guest sends

KINDS_OF_ERROR: Final = (
    *("bad-request", "busy", "failed", "not-found", "other", "no-such-execution", "ended", "later"),
    *("port-closed", "no-such-user", "no-such-program", "no-space", ""),
)
LEAVES: Final = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 1 << 31, 1 << 63, 1 << 64, 10**400])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["x" * 5000, "\ud800", "\0", "/../..", *KINDS_OF_ERROR])
)
VALUES: Final = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)
NAMES: Final = [*INFO, *HELLO, *GROWTH, "pid", "known", "rows", "bytes", "exit_code", "signal", "stdout_cut", "errno"]
BODIES: Final = st.dictionaries(st.sampled_from([*NAMES, "message", "later"]), VALUES, max_size=8)
NEARLY: Final = st.builds(
    lambda base, other: base | other,
    st.sampled_from([HELLO, INFO, GROWTH, {"pid": 1, "known": True}, {"path": "/"}, {"rows": [ROW]}, {"bytes": 1}]),
    BODIES | st.just({}),
)
ERRORS: Final = st.builds(
    lambda kind, other: other | {"kind": kind}, st.sampled_from(KINDS_OF_ERROR) | VALUES, BODIES | st.just({})
)
ROWS: Final = st.builds(
    lambda rows, times: {"rows": rows * times},
    st.lists(st.lists(VALUES, max_size=8) | st.sampled_from([ROW, EXECUTION]), max_size=4),
    st.sampled_from([1, 1, 1, 3000]),
)
ODD: Final = st.sampled_from(
    [
        b"[" * 200_000,
        b'{"rows":' + b"[" * 100_000,
        b'{"a":' * 40_000,
        b'{"rows":[' + b"[]," * 80_000 + b"[]]}",
        b'{"stdout":' + b"9" * 200_000 + b"}",
        b'{"pid":1,"pid":"x","known":NaN}',
        b'{"path":"\\ud800","rows":[["\\udfff","file",1e999,1,1,0,0]]}',
        '{"pid":7,"known":false}'.encode("utf-16"),
        b"\xff\xfe\x00",
        b" " * 262_144,
        b"",
    ]
)


def _text(body: object) -> bytes:
    return json.dumps(body).encode()[: protocol.MAX_ANSWER]


def _lied(kind: int, payload: bytes, lie: str) -> bytes:
    length = {"": len(payload), "less": len(payload) // 2, "more": len(payload) + 7, "none": 0}.get(lie)
    if length is None:
        length = {"most": 262_144, "over": 262_145, "huge": 0xFFFFFFFF}[lie]
    return struct.pack("<BI", kind, length) + payload


PAYLOADS: Final = (NEARLY | ERRORS | ROWS).map(_text) | ODD | st.binary(max_size=40)
LIES: Final = st.sampled_from(["", "", "", "", "", "less", "more", "none", "most", "over", "huge"])
FRAMES: Final = (
    st.builds(_lied, st.sampled_from([2, 3, 4, 4, 5, 5, 6, 0, 1, 7, 255]), PAYLOADS, LIES)
    | st.builds(lambda body: frame(3, body), ERRORS.map(_text))
    | st.builds(lambda body: frame(4, body), (ROWS | NEARLY).map(_text))
    | st.just(frame(6))
    | st.binary(min_size=1, max_size=64)
)
ACTS: Final = st.one_of(
    st.builds(Act, st.just("send"), FRAMES),
    st.builds(Act, st.just("send"), FRAMES),
    st.builds(Act, st.just("drip"), FRAMES.map(lambda data: data[:300])),
    st.builds(Act, st.just("descriptors"), FRAMES, st.sampled_from([1, 3, 253])),
    st.builds(Act, st.just("flood"), FRAMES),
    st.builds(Act, st.just("pause"), st.just(b""), st.sampled_from([1, 20])),
    st.sampled_from([Act("urgent"), Act("shut"), Act("deaf"), Act("request")]),
)


@st.composite
def _scripts(draw: Any) -> tuple[str, tuple[Act, ...], bool]:
    """A call, what the guest does during it, and whether it hangs at the end."""
    name = draw(st.sampled_from(sorted(CALLS)))
    begin = [Act("request")] if draw(st.integers(0, 5)) else []
    match draw(st.sampled_from(["honest", "honest", "honest", "error", "nothing"])):
        case "honest":
            begin.append(Act("send", CALLS[name][2]))
        case "error":
            # Every call can be answered with the first; most others are wrong for most calls.
            kinds = st.just("busy") | st.sampled_from(KINDS_OF_ERROR)
            begin.append(Act("send", frame(3, {"kind": draw(kinds)})))
    return name, (*begin, *draw(st.lists(ACTS, max_size=5))), draw(st.integers(0, 4)) == 0


# ---- the judge


class Judge:
    """Makes calls on one loop and looks at what they leave behind."""

    def __init__(self, guest: Hostile, path: Path, runner: asyncio.Runner) -> None:
        self._guest = guest
        self._client = GuestClient(path)
        self._runner = runner
        self.outcomes: dict[str, int] = {}
        self._runner.run(asyncio.sleep(0))
        self._descriptors = open_descriptors()

    def check(self, drawn: tuple[str, tuple[Act, ...], bool]) -> None:
        name, self._guest.script, self._guest.hangs = drawn
        call, own, _ = CALLS[name]
        outcome = self._runner.run(self._outcome(call, (*ALWAYS, *own)))
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self._guest.settle()
        # The guest may not have accepted the last connection yet, which is closed already.
        ends = time.monotonic() + ENDS_S
        while open_descriptors() != self._descriptors:
            assert time.monotonic() < ends, "a descriptor is left"
            time.sleep(0.001)
            self._guest.settle()

    async def _outcome(self, call: Call, allowed: tuple[type[Exception], ...]) -> str:
        began = time.monotonic()
        outcome = "answer"
        try:
            async with asyncio.timeout(ENDS_S):
                await call(self._client)
        except allowed as error:
            outcome = type(error).__name__
            text = str(error)
            if not (text.startswith("cannot ") and text.isprintable() and len(text) < 400):
                raise AssertionError("a message that is not the host's own") from error
        assert time.monotonic() - began < ENDS_S
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"
        return outcome


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guest.sock"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(120 + fuzzing.SECONDS)
def test_random_answers_raise_only_what_the_contract_names(
    path: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_PATIENCE_S", LIMIT_S)
    with listening(path) as guest:
        judge = Judge(guest, path, runner)
        for seed in fuzzing.rounds():
            fuzzing.run(judge.check, seed, EXAMPLES, drawn=_scripts())
    # Answers got past the checks as well as being refused by them.
    assert {"answer", "BoxUnresponsive"} <= judge.outcomes.keys(), judge.outcomes
    assert len(judge.outcomes) > 2, judge.outcomes


# ---- floods: bounded memory, and other callers have their turn


async def _turn(call: Awaitable[object]) -> float:
    """The mean seconds of CPU time after which something else had its turn while `call` was under way."""
    count, began, ended = 0, time.thread_time(), asyncio.ensure_future(call)
    while not ended.done():
        await asyncio.sleep(0)
        count += 1
    await ended
    return (time.thread_time() - began) / count


async def _all_of(stream: ByteStream, seconds: float) -> int:
    """Read whatever comes for this long; return how many reads that were."""
    count, ends = 0, time.monotonic() + seconds
    try:
        while time.monotonic() < ends and await stream.read():
            count += 1
    finally:
        await stream.close()
    return count


FLOODS: Final[dict[str, tuple[bytes, bytes, Callable[[GuestClient], Awaitable[object]]]]] = {
    "a terminal by bytes": (frame(2, {}), frame(5, b"x"), lambda client: _flooded(client.attach("x"))),
    "a port": (frame(2, {}), b"x" * 65_536, lambda client: _flooded(client.connect(80))),
    "a listing by rows": (
        frame(2, {"path": "/d"}),
        frame(4, {"rows": [ROW], "later": [[]] * 60_000}),
        lambda client: _refused(client.list_files("/d", timeout_s=0.5)),
    ),
    "executions by rows": (
        frame(2, {}),
        frame(4, {"rows": [EXECUTION], "later": [[]] * 60_000}),
        lambda client: _refused(client.executions(timeout_s=0.5)),
    ),
}


async def _flooded(opening: Awaitable[ByteStream]) -> None:
    assert await _all_of(await opening, 0.5) > 10


async def _refused(call: Awaitable[object]) -> None:
    with pytest.raises(BoxUnresponsive, match="did not answer within"):
        await call


@pytest.mark.parametrize("name", sorted(FLOODS))
def test_a_flood_leaves_others_their_turn_and_ends_in_time(path: Path, runner: asyncio.Runner, name: str) -> None:
    opening, flood, call = FLOODS[name]
    with listening(path) as guest:
        guest.script = (Act("request"), Act("send", opening), Act("flood", flood))
        began = time.monotonic()
        assert runner.run(_turn(call(GuestClient(path)))) < 0.1
        assert time.monotonic() - began < ENDS_S


@pytest.mark.parametrize(
    ("event", "fits"),
    [
        ({"rows": [ROW], "later": "x" * 200_000}, True),
        ({"rows": [ROW], "later": [[]] * 8_000}, True),
        ({"rows": [["n" * 200_000, *ROW[1:]]]}, False),
        ({"rows": [["n", "file", [[]] * 60_000, *ROW[3:]]]}, False),
    ],
)
def test_what_does_not_belong_in_a_listing_is_not_kept(
    path: Path, runner: asyncio.Runner, event: dict[str, object], fits: bool
) -> None:
    async def look() -> int:
        try:
            return len(await GuestClient(path).list_files("/d"))
        except BoxUnresponsive:
            return 0

    with listening(path) as guest:
        guest.script = (Act("request"), Act("send", frame(2, {"path": "/d"}) + frame(4, event) * 100 + frame(6)))
        gc.collect()
        tracemalloc.start()
        try:
            assert runner.run(look()) == (100 if fits else 0)
            held = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert held < 12 << 20


def test_the_largest_listing_is_bounded(path: Path, runner: asyncio.Runner) -> None:
    folder, row = "/" + "d" * 4000, ["n" * 255, *ROW[1:]]
    with listening(path) as guest:
        events = frame(4, {"rows": [row] * 500}) * 20
        guest.script = (Act("request"), Act("send", frame(2, {"path": folder}) + events + frame(6)))
        tracemalloc.start()
        try:
            found = runner.run(GuestClient(path).list_files("/d"))
            assert tracemalloc.get_traced_memory()[1] < MEMORY
        finally:
            tracemalloc.stop()
    assert len(found) == protocol.MAX_ENTRIES


async def _gather(reader: FileReader, into: list[bytes]) -> None:
    async for chunk in reader:
        into.append(chunk)  # noqa: PERF401 - an error keeps what came before it


def test_a_file_gives_no_more_than_was_asked_for(path: Path, runner: asyncio.Runner) -> None:
    async def read() -> None:
        got: list[bytes] = []
        with pytest.raises(BoxUnresponsive, match="more than"):
            await _gather(await GuestClient(path).read_file("/f", limit=10), got)
        assert len(b"".join(got)) <= 10

    with listening(path) as guest:
        guest.script = (Act("request"), Act("send", frame(2, INFO) + frame(5, b"12345") * 3 + frame(6)))
        runner.run(read())
        guest.script = (Act("request"), Act("send", frame(2, INFO) + frame(5, b"x" * 11) + frame(6)))
        runner.run(read())


def test_a_host_without_descriptors_is_not_a_box_that_is_gone(path: Path, runner: asyncio.Runner) -> None:
    async def greet_without() -> None:
        lowest = os.dup(0)
        os.close(lowest)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            with pytest.raises(contract.HostExhausted, match="^cannot greet the guest: too many open files"):
                await GuestClient(path).hello()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with listening(path) as guest:
        guest.script = (Act("request"), Act("send", frame(2, HELLO)))
        runner.run(GuestClient(path).hello())
        guest.settle()
        runner.run(greet_without())
