"""Snapshots as streams, out of a pool and into one: `btrfs send` and `receive`, or the file of a disk, through zstd.

Owns the programs between a pool and a stream, and the end of them. A stream that comes in is believed: it must be one
that a server of the same operator made, which is for the caller to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final, cast

from corral.runtime.contract import HostUnfit

#: Bytes of what is read of a stream at once.
_PIECE: Final = 1 << 20

_COMPRESS: Final = ("zstd", "--quiet", "--stdout", "--threads=1", "-3")
_EXPAND: Final = ("zstd", "--quiet", "--decompress")

#: Seconds for a program that has been told to end.
_END_S: Final = 10.0


@dataclass(slots=True)
class _Program:
    """A program that runs, and what it says on its standard error."""

    name: str
    process: asyncio.subprocess.Process
    said: IO[bytes]

    async def end(self) -> str:
        """Wait for it; return what went wrong, or nothing."""
        code = await self.process.wait()
        if code == 0:
            return ""
        self.said.seek(0)
        return f"{self.name} ended with {code}: {self.said.read(4096).decode(errors='replace').strip()[-500:]}"

    async def close(self) -> None:
        """Make it end if it has not."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            async with asyncio.timeout(_END_S):
                await self.process.wait()
        self.said.close()


async def compressed(source: Sequence[str]) -> AsyncGenerator[bytes, None]:
    """What the program `source` writes, or the file that it is the path of, compressed.

    Raises HostUnfit when a program is missing or fails; what came before is no whole stream then.
    """
    async with contextlib.AsyncExitStack() as undo:
        programs: list[_Program] = []
        if len(source) == 1:
            entrance = os.open(source[0], os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, entrance)
        else:
            entrance, exit_ = os.pipe()
            with _closing(exit_):
                try:
                    programs.append(await _start(undo, source, stdin=asyncio.subprocess.DEVNULL, stdout=exit_))
                except BaseException:
                    os.close(entrance)
                    raise
            undo.callback(os.close, entrance)
        last = await _start(undo, _COMPRESS, stdin=entrance, stdout=asyncio.subprocess.PIPE)
        programs.append(last)
        output = cast("asyncio.StreamReader", last.process.stdout)
        while piece := await output.read(_PIECE):
            yield piece
        await _require_ends("send snapshot", programs)


async def expand(stream: AsyncIterator[bytes], target: Sequence[str]) -> None:
    """Give a compressed stream to the program `target`, or write it to the file that it is the path of, with holes.

    Raises HostUnfit when a program is missing or fails, and what `stream` raises.
    """
    async with contextlib.AsyncExitStack() as undo:
        if len(target) == 1:
            to_file = (*_EXPAND, "--sparse", "-o", target[0])
            first = await _start(undo, to_file, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL)
            programs = [first]
        else:
            entrance, exit_ = os.pipe()
            with _closing(entrance), _closing(exit_):
                command = (*_EXPAND, "--stdout")
                first = await _start(undo, command, stdin=asyncio.subprocess.PIPE, stdout=exit_)
                second = await _start(undo, target, stdin=entrance, stdout=asyncio.subprocess.DEVNULL)
            programs = [second, first]
        stdin = cast("asyncio.StreamWriter", first.process.stdin)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the end of the program says why
            async for piece in stream:
                stdin.write(piece)
                await stdin.drain()
            stdin.close()
            await stdin.wait_closed()
        await _require_ends("receive snapshot", programs)


async def _start(
    undo: contextlib.AsyncExitStack, command: Sequence[str], *, stdin: int | None, stdout: int | None
) -> _Program:
    said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=stdin, stdout=stdout, stderr=said)
    except FileNotFoundError as error:
        said.close()
        message = f"cannot run {command[0]}: it is not installed"
        raise HostUnfit(message, remedy="install btrfs-progs and zstd") from error
    program = _Program(command[0], process, said)
    undo.push_async_callback(program.close)
    return program


async def _require_ends(verb: str, programs: Sequence[_Program]) -> None:
    """Wait for all; raise what the first one of them that failed says."""
    wrong = [problem for program in programs if (problem := await program.end())]
    if wrong:
        message = f"cannot {verb}: {wrong[0]}"
        raise HostUnfit(message, remedy="look at the host's disks and its kernel log")


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)
