"""Promises about snapshots: what is in them, what begins as them, what outlives what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from corral.runtime.conformance.suite import Bench, Group, expect, expect_equal, raises
from corral.runtime.contract import (
    BoxGone,
    BoxSpec,
    HostUnfit,
    MemoryNotKept,
    NoSuchExecution,
    NoSuchSnapshot,
    SnapshotExists,
)

GROUP = Group()

#: Everything that a disk can hold, made by the box's user.
_MAKE = r"""
set -e
mkdir -p ~/tree/deep/er && cd ~/tree
head -c 3000000 /dev/urandom > big && echo text > "odd name"
ln big hard && ln -s ../tree/big soft && ln -s none dangling
truncate -s 50M sparse && echo end >> sparse
touch -d 2001-02-03T04:05:06.123456789 old && chmod 0640 old && chmod 2750 deep
"""

#: All of it as text: type, mode, owners, times, links, sizes and blocks, content.
_LIST = r"""
cd ~/tree && find . -printf '%p %y %m %u %g %T@ %n %s %l
' | sort && find . -type f -exec sha256sum {} + | sort
test big -ef hard && echo linked; test $(stat -c %b sparse) -lt 1000 && echo sparse
"""


@contextlib.asynccontextmanager
async def snapshot_of(bench: Bench, box: str) -> AsyncIterator[str]:
    """A snapshot for the length of the block."""
    name = bench.new_id("snp")
    copied = await bench.runtime.snapshot(box, name)
    expect(copied.size >= 0, "its size is a number of bytes")
    expect_equal(copied.layers, bench.spec().layers, "the layers below it")
    try:
        yield name
    finally:
        await bench.runtime.forget_snapshot(name)


def beginning_as(bench: Bench, name: str) -> BoxSpec:
    """The spec of a new box whose disk begins as the snapshot."""
    return replace(bench.spec(), origin=name)


@GROUP.check
async def a_snapshot_is_the_disk_to_the_byte(bench: Bench) -> None:
    """A box that begins as a snapshot has the same files: content, links, holes, modes, owners and times."""
    box = await bench.box()
    made = await bench.sh(box, _MAKE)
    expect_equal(made.result.exit_code, 0, f"making the tree: {made.stderr!r}")
    listed = (await bench.sh(box, _LIST)).text
    expect("linked\nsparse" in listed, "the tree has what it needs")
    async with snapshot_of(bench, box) as name:
        copy = (await bench.runtime.create(beginning_as(bench, name))).id
        expect_equal((await bench.sh(copy, _LIST)).text, listed, "the tree in the copy")


@GROUP.check
async def copies_are_their_own(bench: Bench) -> None:
    """What the box and its copies write after a snapshot is seen by none of the others, and not by later copies."""
    box = await bench.box()
    await bench.sh(box, "echo first > ~/file; echo gone > ~/removed; rm ~/removed; rm -rf ~/.cache")
    async with snapshot_of(bench, box) as name:
        await bench.sh(box, "echo second > ~/file")
        one = (await bench.runtime.create(beginning_as(bench, name))).id
        await bench.sh(one, "echo mine > ~/file; rm -rf ~/tree; touch ~/new")
        two = (await bench.runtime.create(beginning_as(bench, name))).id
        seen = [(await bench.sh(each, "cat ~/file; ls ~")).text.split() for each in (box, one, two)]
        expect_equal([each[0] for each in seen], ["second", "mine", "first"], "the file in each")
        expect("new" not in seen[2] and "removed" not in seen[2], "the later copy has nothing of the earlier one")


@GROUP.check
async def a_copy_is_another_box(bench: Bench) -> None:
    """A box that begins as a snapshot has its own name and environment; no process of the first one runs in it."""
    box = await bench.box(env={"WHOSE": "first"})
    await bench.start_sh(box, "sleep 1000")
    async with snapshot_of(bench, box) as name:
        spec = replace(beginning_as(bench, name), hostname="another", env={"WHOSE": "second"})
        copy = (await bench.runtime.create(spec)).id
        said = (await bench.sh(copy, "echo $WHOSE; cat /etc/hostname 2>/dev/null; pgrep -x sleep")).text.split()
        expect_equal(said[:1], ["second"], "its environment")
        expect("first" not in said, "nothing of the first one's")


@GROUP.check
async def a_box_goes_on_in_copies_with_its_processes_or_says_why_not(bench: Bench) -> None:
    """With its memory kept, what runs in a box goes on in any number of others, each by itself; so does the box."""
    box, name = await bench.box(env={"WHOSE": "first"}), bench.new_id("snp")
    count = await bench.start_sh(box, "n=0; while :; do echo $((n+=1)) $WHOSE; sleep 0.01; done")
    await bench.until_output(box, count, b"5 first")
    try:
        try:
            copied = await bench.runtime.snapshot(box, name, memory=True)
        except MemoryNotKept as problem:
            expect(problem.message.startswith("cannot keep memory of box "), "it says what cannot be done")
            expect(name not in await bench.runtime.snapshots(), "nothing is kept")
            await _counts_on(bench, box, count)
            return
        expect_equal(copied.executions, (count,), "what ran")
        expect(copied.memory > 0, "there is some memory")
        copies = {}
        for _ in range(2):
            mine = bench.new_id("exe")
            spec = replace(beginning_as(bench, name), memory=True, executions={count: mine}, env={"WHOSE": "another"})
            made = await bench.runtime.create(spec)
            expect(made.restored, "it goes on with the processes")
            copies[made.id] = mine
        await bench.runtime.forget_snapshot(name)
        for copy, mine in {**copies, box: count}.items():
            await _counts_on(bench, copy, mine)
            with raises(NoSuchExecution, "the first one's"):
                await bench.runtime.signal(copy, count if copy != box else next(iter(copies.values())), 9)
        for copy, mine in copies.items():
            expect_equal((await bench.sh(copy, "echo $WHOSE")).text, "another", "the environment of new commands")
            await bench.runtime.signal(copy, mine, 9)
            expect_equal((await bench.finish(copy, mine)).result.signal, 9, "how its own ended")
        await _counts_on(bench, box, count)
    finally:
        await bench.runtime.forget_snapshot(name)


@GROUP.check
async def a_box_that_sleeps_goes_on_in_copies_and_as_itself(bench: Bench) -> None:
    """What was kept of a box's memory can be kept under a second name, for others; the box goes on from it too."""
    spec = bench.spec()
    box = (await bench.runtime.create(spec)).id
    kept, shared, mine = bench.new_id("snp"), bench.new_id("snp"), bench.new_id("exe")
    count = await bench.start_sh(box, "n=0; while :; do echo $((n+=1)); sleep 0.01; done")
    await bench.until_output(box, count, b"5\n")
    try:
        try:
            memory = (await bench.runtime.checkpoint(box, kept)).memory
        except MemoryNotKept:
            await bench.runtime.snapshot(box, kept)
            with raises(MemoryNotKept, "a snapshot of the disk alone"):
                await bench.runtime.copy_snapshot(kept, shared, memory=True)
            expect(shared not in await bench.runtime.snapshots(), "nothing is kept")
            return
        await bench.runtime.destroy(box)
        found = await bench.runtime.copy_snapshot(kept, shared, memory=True)
        expect_equal(found, (memory, (count,)), "the size of the memory, and what ran")
        with raises(SnapshotExists, "a name that is taken"):
            await bench.runtime.copy_snapshot(kept, shared, memory=True)
        another = replace(beginning_as(bench, shared), memory=True, executions={count: mine})
        copy = (await bench.runtime.create(another)).id
        expect((await bench.runtime.create(replace(spec, origin=kept, memory=True))).restored, "it goes on as itself")
        for each, exec_id in ((copy, mine), (box, count)):
            await _counts_on(bench, each, exec_id)
        with raises(NoSuchExecution, "the first one's"):
            await bench.runtime.signal(copy, count, 9)
    finally:
        for name in (kept, shared):
            await bench.runtime.forget_snapshot(name)


async def _counts_on(bench: Bench, box: str, exec_id: str) -> None:
    """Wait until the counter has gone on, and see that it left nothing out and said nothing twice."""

    def counted() -> list[bytes]:
        return [line.split()[0] for line in bench.output(box, exec_id).splitlines()]

    before = len(counted())
    await bench.until(lambda: len(counted()) >= before + 3, "the counter goes on")
    numbers = counted()
    expect_equal(numbers, [b"%d" % number for number in range(1, len(numbers) + 1)], "what was counted")


@GROUP.check
async def a_snapshot_outlives_its_box(bench: Bench) -> None:
    """A snapshot stays when its box is destroyed; a copy stays when the snapshot is forgotten."""
    box = await bench.box()
    await bench.sh(box, "echo kept > ~/file")
    async with snapshot_of(bench, box) as name:
        await bench.runtime.destroy(box)
        expect(name in await bench.runtime.snapshots(), "it is listed")
        copy = (await bench.runtime.create(beginning_as(bench, name))).id
    expect(name not in await bench.runtime.snapshots(), "it is listed no more")
    expect_equal((await bench.sh(copy, "cat ~/file")).text, "kept", "the copy's file")
    await bench.runtime.forget_snapshot(name)


@GROUP.check
async def a_busy_box_is_copied_and_goes_on(bench: Bench) -> None:
    """A box that writes all the time is copied as of one moment, and goes on writing."""
    box = await bench.box()
    script = "cd ~; n=0; while :; do n=$((n+1)); echo $n >> first; echo $n >> second; done"
    exec_id = await bench.start_sh(box, script)
    await bench.clock.sleep(0.2)
    async with snapshot_of(bench, box) as name:
        size = int((await bench.sh(box, "stat -c %s ~/first")).text)
        copy = (await bench.runtime.create(beginning_as(bench, name))).id
        lines = (await bench.sh(copy, "cd ~; wc -l < first; wc -l < second; tail -n1 first")).text.split()
        expect(0 <= int(lines[0]) - int(lines[1]) <= 1, f"both files are of one moment: {lines}")
        expect_equal(lines[2], lines[0], "no line is lost")
        later = int((await bench.sh(box, "sleep 0.2; stat -c %s ~/first")).text)
        expect(later > size, "the box goes on")
    await bench.runtime.signal(box, exec_id, 9)


@GROUP.check
async def a_snapshot_is_made_once(bench: Bench) -> None:
    """A second snapshot of the name raises SnapshotExists and leaves the first alone, also when both come at once."""
    box = await bench.box()
    await bench.sh(box, "echo first > ~/file")
    async with snapshot_of(bench, box) as name:
        await bench.sh(box, "echo second > ~/file")
        with raises(SnapshotExists, "snapshot again"):
            await bench.runtime.snapshot(box, name)
        copy = (await bench.runtime.create(beginning_as(bench, name))).id
        expect_equal((await bench.sh(copy, "cat ~/file")).text, "first", "the first snapshot")
    twice = bench.new_id("snp")
    both = await asyncio.gather(*(bench.runtime.snapshot(box, twice) for _ in range(2)), return_exceptions=True)
    await bench.runtime.forget_snapshot(twice)
    expect_equal(sum(isinstance(each, SnapshotExists) for each in both), 1, "one of both was told")


@GROUP.check
async def what_is_not_there_is_told(bench: Bench) -> None:
    """A snapshot of no box raises BoxGone; a box of no snapshot raises NoSuchSnapshot and is not there."""
    with raises(BoxGone, "snapshot of no box"):
        await bench.runtime.snapshot("dbx_none", "snp_none")
    spec = beginning_as(bench, "snp_none")
    with raises(NoSuchSnapshot, "a box of no snapshot"):
        await bench.runtime.create(spec)
    with raises(BoxGone, "inspect"):
        await bench.runtime.inspect(spec.id)


@GROUP.check
async def snapshots_of_snapshots_have_all(bench: Bench) -> None:
    """Each of a row of snapshots, of a box that began as the one before, has all that was written up to it."""
    box, names = await bench.box(), list[str]()
    try:
        for level in range(6):
            await bench.sh(box, f"echo {level} >> ~/levels; rm -f ~/old; touch ~/old{level}")
            names.append(bench.new_id("snp"))
            await bench.runtime.snapshot(box, names[-1])
            box = (await bench.runtime.create(beginning_as(bench, names[-1]))).id
        said = (await bench.sh(box, "cat ~/levels; ls ~ | grep -c old")).text.split()
        expect_equal(said, [*"012345", "6"], "the last one's files")
    finally:
        for name in names:
            await bench.runtime.forget_snapshot(name)


@GROUP.check
async def a_snapshot_is_kept_under_two_names(bench: Bench) -> None:
    """`copy_snapshot` gives a second snapshot of the same contents, which stays when the first is forgotten."""
    box, second = await bench.box(), bench.new_id("snp")
    await bench.sh(box, "echo kept > ~/file")
    try:
        async with snapshot_of(bench, box) as name:
            await bench.runtime.copy_snapshot(name, second)
            with raises(SnapshotExists, "a name that is taken"):
                await bench.runtime.copy_snapshot(name, second)
        with raises(NoSuchSnapshot, "a source that is gone"):
            await bench.runtime.copy_snapshot(name, bench.new_id("snp"))
        copy = (await bench.runtime.create(beginning_as(bench, second))).id
        expect_equal((await bench.sh(copy, "cat ~/file")).text, "kept", "the file")
    finally:
        await bench.runtime.forget_snapshot(second)


async def _sent(bench: Bench, *names: tuple[str, str | None]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Streams of snapshots, each with its parent, as another machine would have kept them."""
    for name, parent in names:
        pieces = [piece async for piece in bench.runtime.send_snapshot(name, parent)]
        yield _again(pieces)


async def _again(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@GROUP.check
async def a_snapshot_that_was_sent_is_the_same_where_it_is_received(bench: Bench) -> None:
    """What `send_snapshot` gives makes, in another pool too, a snapshot of the same files, from differences too."""
    box, received = await bench.box(), bench.new_id("snp")
    expect_equal((await bench.sh(box, _MAKE)).result.exit_code, 0, "making the tree")
    async with snapshot_of(bench, box) as first:
        await bench.sh(
            box, "cd ~/tree; echo more >> 'odd name'; rm soft; mv big deep/; head -c 100000 /dev/urandom > new"
        )
        async with snapshot_of(bench, box) as second:
            listed = (await bench.sh(box, _LIST.replace("big", "deep/big"))).text
            chain: list[tuple[str, str | None]] = [(second, None)]
            if bench.runtime.snapshot_form.has_differences:
                chain = [(first, None), (second, first)]
            try:
                await bench.runtime.receive_snapshot(received, _sent(bench, *chain))
                with raises(SnapshotExists, "a name that is taken"):
                    await bench.runtime.receive_snapshot(received, _sent(bench, *chain))
                copy = (await bench.runtime.create(beginning_as(bench, received))).id
                said = (await bench.sh(copy, _LIST.replace("big", "deep/big"))).text
                expect_equal(said, listed, "the tree in the copy")
            finally:
                await bench.runtime.forget_snapshot(received)


@GROUP.check
async def a_stream_that_breaks_off_makes_no_snapshot(bench: Bench) -> None:
    """A stream that is cut or fails leaves nothing; a snapshot of no name is not sent."""
    name = bench.new_id("snp")
    with raises(NoSuchSnapshot, "send what is not there"):
        async for _ in bench.runtime.send_snapshot(name):
            pass
    box = await bench.box()
    await bench.sh(box, "head -c 3000000 /dev/urandom > ~/file")

    async def cut(source: str) -> AsyncIterator[AsyncIterator[bytes]]:
        whole = b"".join([piece async for piece in bench.runtime.send_snapshot(source)])
        yield _again([whole[: len(whole) // 2]])

    async def broken() -> AsyncIterator[AsyncIterator[bytes]]:
        yield _failing()

    async with snapshot_of(bench, box) as source:
        with raises(HostUnfit, "receive half of a stream"):
            await bench.runtime.receive_snapshot(name, cut(source))
        try:
            await bench.runtime.receive_snapshot(name, broken())
        except ConnectionError as error:
            expect("gone" in str(error), "what the stream raises is raised")
        else:
            expect(False, "a stream that cannot be read is an error")
    expect(name not in await bench.runtime.snapshots(), "there is none")


async def _failing() -> AsyncIterator[bytes]:
    yield b""
    message = "the other side is gone"
    raise ConnectionError(message)
