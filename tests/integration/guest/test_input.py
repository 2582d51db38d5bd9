"""Standard input: pipes that fill, close and break."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from corral.runtime.contract import BoxUnresponsive, ExecutionEnded, NoSuchExecution
from tests.integration.guest.box import Box, last_of


async def test_input_goes_to_the_command_and_closing_ends_it(box: Box) -> None:
    async with box.start_command("cat", stdin=True) as (name, following, spool):
        await box.client.write_stdin(name, b"one ")
        await box.client.write_stdin(name, b"two", close=True)
        await last_of(following)
    assert spool.stdout == b"one two"


async def test_closing_alone_is_an_end_of_file(box: Box) -> None:
    async with box.start_command("wc", "-c", stdin=True) as (name, following, spool):
        await box.client.write_stdin(name, b"", close=True)
        await last_of(following)
    assert spool.stdout == b"0\n"


async def test_ten_megabytes_pass_a_slow_reader_whole(box: Box) -> None:
    data = bytes(range(256)) * 40_960
    async with box.start_command("/bin/sh", "-c", "sleep 0.2; sha256sum; ", stdin=True) as (name, following, spool):
        await box.client.write_stdin(name, data, close=True)
        await last_of(following)
    assert spool.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


async def test_writers_do_not_mix_inside_a_write(box: Box) -> None:
    writes = [bytes([65 + n]) * 100_000 for n in range(8)]
    async with box.start_command("/bin/sh", "-c", "sleep 0.1; cat", stdin=True) as (name, following, spool):
        await asyncio.gather(*(box.client.write_stdin(name, data) for data in writes))
        await box.client.write_stdin(name, b"", close=True)
        await last_of(following)
    found = [spool.stdout[start : start + 100_000] for start in range(0, 800_000, 100_000)]
    assert sorted(found) == writes


async def test_a_command_that_does_not_read_makes_only_the_writer_wait(box: Box) -> None:
    async with box.start_command("sleep", "30", stdin=True) as (name, _, _):
        with pytest.raises(BoxUnresponsive, match="did not answer"):
            await box.client.write_stdin(name, b"x" * 1_000_000, timeout_s=0.3)
        assert (await box.sh("echo still here")).stdout == b"still here\n"
        await box.client.signal(name, 9)


async def test_input_for_nobody_is_refused(box: Box) -> None:
    with pytest.raises(NoSuchExecution):
        await box.client.write_stdin("never", b"x")
    async with box.start_command("sleep", "0.1") as (name, following, _):
        with pytest.raises(ExecutionEnded, match="takes no standard input"):
            await box.client.write_stdin(name, b"x")
        await last_of(following)
    with pytest.raises(ExecutionEnded, match="it has ended"):
        await box.client.write_stdin(name, b"x")


async def test_a_closed_reader_and_an_end_in_the_middle_are_told_to_the_writer(box: Box) -> None:
    async with box.start_command("/bin/sh", "-c", "exec <&-; sleep 30", stdin=True) as (name, _, _):
        await box.sh("sleep 0.1")
        with pytest.raises(ExecutionEnded):
            await box.client.write_stdin(name, b"x")
        await box.client.signal(name, 9)
    async with box.start_command("sleep", "0.3", stdin=True) as (name, _, _):
        with pytest.raises(ExecutionEnded):
            await box.client.write_stdin(name, b"x" * 1_000_000)


async def test_a_second_close_is_refused(box: Box) -> None:
    async with box.start_command("/bin/sh", "-c", "cat; sleep 30", stdin=True) as (name, _, _):
        await box.client.write_stdin(name, b"x", close=True)
        with pytest.raises(ExecutionEnded):
            await box.client.write_stdin(name, b"y")
        await box.client.signal(name, 9)
