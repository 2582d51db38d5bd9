"""The contract on a FakeHost. Must keep every promise of the contract but those that `differences` lists."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from corral.core.clock import Clock, SystemClock
from corral.runtime import contract
from corral.runtime.contract import (
    Box,
    BoxSpec,
    ByteStream,
    Copied,
    ExecResult,
    ExecSpec,
    FileInfo,
    FileReader,
    Layer,
    MemoryNotKept,
    Progress,
    Runtime,
    SnapshotForm,
    Stream,
    TerminalSize,
    Usage,
)
from corral.runtime.fake import files, launch
from corral.runtime.fake.execution import Execution
from corral.runtime.fake.host import FakeBox, FakeHost, cpu_us, disk_bytes, processes, resident_bytes
from corral.runtime.fake.streams import OutputStream, TcpStream
from corral.runtime.fake.viewers import Watch
from corral.runtime.rootfs import transfer

#: The contract's pace of `follow`.
PACE_S: Final = 0.02
POLL_S: Final = 0.005
STDIN_PATIENCE_S: Final = 30.0
LAST_PORT: Final = 65535


class FakeRuntime(Runtime):
    """Boxes on `host`, which the caller closes; give it to the next FakeRuntime to restart the server."""

    def __init__(self, host: FakeHost, *, clock: Clock | None = None) -> None:
        self.host = host
        self._clock = clock or SystemClock()
        self._deaths: asyncio.Queue[Box] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        await self._enter("start")
        self._loop = asyncio.get_running_loop()
        self.host.on_death(self._mourn)

    async def close(self) -> None:
        self.host.off_death(self._mourn)

    # -- boxes

    async def create(self, spec: BoxSpec) -> Box:
        await self._enter("create")
        return self.host.add(spec).box

    def expect(self, layers: tuple[Layer, ...]) -> None:
        """Its boxes are there at once anyhow."""

    async def layers(self, *, lasting: bool = False) -> set[Layer]:
        await self._enter("layers")
        return {layer for box in self.host.boxes.values() for layer in (*box.spec.layers, *box.spec.lent)}

    async def destroy(self, box_id: str) -> None:
        await self._enter("destroy")
        await asyncio.to_thread(self.host.remove, box_id)

    async def snapshot(self, box_id: str, name: str, *, memory: bool = False) -> Copied:
        await self._enter("snapshot")
        if memory:
            self._live(box_id, "snapshot")
            raise MemoryNotKept(f"cannot keep memory of box {box_id}: its processes are this machine's own")
        return await asyncio.to_thread(self.host.snapshot, box_id, name)

    async def checkpoint(self, box_id: str, name: str) -> Copied:
        await self._enter("checkpoint")
        raise MemoryNotKept(f"cannot keep memory of box {box_id}: its processes are this machine's own")

    async def copy_snapshot(self, source: str, name: str, *, memory: bool = False) -> tuple[int, tuple[str, ...]]:
        await self._enter("copy_snapshot")
        if memory:
            self.host.snapshot_tree(source)
            raise MemoryNotKept(f"cannot keep memory of snapshot {source}: it has none")
        await asyncio.to_thread(self.host.copy_snapshot, source, name)
        return 0, ()

    async def forget_snapshot(self, name: str) -> None:
        await self._enter("forget_snapshot")
        await asyncio.to_thread(self.host.forget_snapshot, name)

    async def snapshots(self) -> list[str]:
        await self._enter("snapshots")
        return await asyncio.to_thread(self.host.snapshots)

    @property
    def snapshot_form(self) -> SnapshotForm:
        return SnapshotForm.TREE

    async def send_snapshot(self, name: str, parent: str | None = None) -> AsyncIterator[bytes]:
        await self._enter("send_snapshot")
        tree = self.host.snapshot_tree(name)
        stream = transfer.compressed(["tar", "--create", "--format=posix", "--sparse", "--directory", str(tree), "."])
        async with contextlib.aclosing(stream):
            async for piece in stream:
                yield piece

    async def receive_snapshot(self, name: str, streams: AsyncIterator[AsyncIterator[bytes]]) -> None:
        await self._enter("receive_snapshot")
        tree = self.host.new_snapshot(name)
        try:
            async for stream in streams:
                await transfer.expand(stream, ["tar", "--extract", "--directory", str(tree)])
        except BaseException:
            self.host.forget_snapshot(name)
            raise

    async def boxes(self) -> list[Box]:
        await self._enter("boxes")
        return [box.box for box in self.host.boxes.values()]

    async def inspect(self, box_id: str) -> Box:
        await self._enter("inspect")
        return self._on_host(box_id, "inspect").box

    async def deaths(self) -> AsyncIterator[Box]:
        while True:
            yield await self._deaths.get()

    async def usage(self, box_id: str) -> Usage:
        await self._enter("usage")
        box = self._live(box_id, "measure")
        return await asyncio.to_thread(_usage, box)

    async def usages(self, box_ids: Sequence[str]) -> dict[str, Usage]:
        await self._enter("usages")
        known = (self.host.boxes.get(box_id) for box_id in box_ids)
        found = [box for box in known if box is not None and box.reason is None]
        return await asyncio.to_thread(lambda: {box.box.id: _usage(box) for box in found})

    async def ping(self, box_id: str, limit_s: float = 5.0) -> None:
        await self._enter("ping")
        if self._live(box_id, "greet the guest of").stopped:
            await self._clock.sleep(limit_s)
            message = f"cannot greet the guest of box {box_id!r}: it did not answer within {limit_s:g} s"
            raise contract.BoxUnresponsive(message)

    # -- executions

    async def execute(self, box_id: str, spec: ExecSpec) -> None:
        await self._enter("execute")
        box = self._live(box_id, "start a command in")
        if self.host.spool.known(box_id, spec.id):
            return
        execution = launch.start(box.spec, spec, box.tree, box.token, self.host.spool)
        box.executions[spec.id] = execution
        self.host.guests.submit(lambda: execution.begin(self.host.guests))

    async def follow(self, box_id: str, exec_id: str) -> AsyncIterator[Progress]:
        if not self.host.spool.known(box_id, exec_id):
            raise _no_execution(exec_id, "follow")
        watch = Watch()
        execution = self._execution(box_id, exec_id)
        if execution is not None:
            execution.subscribe(watch)
        try:
            last: Progress | None = None
            while last is None or last.result is None:
                watch.changed.clear()
                progress = self._progress(box_id, exec_id)
                if progress != last:
                    yield progress
                    last = progress
                if progress.result is None:
                    await watch.changed.wait()
                    await self._pace(watch)
        finally:
            if execution is not None:
                execution.unsubscribe(watch)

    def read_output(self, box_id: str, exec_id: str, stream: Stream, offset: int, limit: int) -> bytes:
        return self.host.spool.read(box_id, exec_id, stream, offset, limit)

    def output_size(self, box_id: str, exec_id: str, stream: Stream) -> int:
        return self.host.spool.size(box_id, exec_id, stream)

    def output_missing(self, box_id: str, exec_id: str, stream: Stream) -> bool:
        return self.host.spool.missing(box_id, exec_id, stream)

    async def signal(
        self, box_id: str, exec_id: str, signal: int, *, group: bool = True, foreground: bool = False
    ) -> None:
        await self._enter("signal")
        execution = self._running(box_id, exec_id, "signal")
        if not (execution.signal_foreground(signal) if foreground else execution.signal(signal, group=group)):
            raise _ended(exec_id, "signal")

    async def write_stdin(self, box_id: str, exec_id: str, data: bytes, *, close: bool = False) -> None:
        await self._enter("write_stdin")
        execution = self._running(box_id, exec_id, "write to")
        await self._feed(execution, data)
        if close:
            execution.close_stdin()

    async def resize(self, box_id: str, exec_id: str, size: TerminalSize) -> None:
        await self._enter("resize")
        if not self._running(box_id, exec_id, "resize").resize(size):
            raise _ended(exec_id, "resize")

    async def attach(
        self, box_id: str, exec_id: str, *, stream: Stream | None = None, patient: bool = False
    ) -> ByteStream:
        await self._enter("attach")
        execution = self._running(box_id, exec_id, "attach to")
        if (execution.spec.terminal is None) is (stream is None):
            raise _ended(exec_id, "attach to")
        viewer = execution.view(stream or Stream.STDOUT, patient=patient)
        if viewer is None:
            raise _ended(exec_id, "attach to")
        return OutputStream(execution, viewer, lambda data: self._feed(execution, data))

    async def forget_output(self, box_id: str) -> None:
        await self._enter("forget_output")
        self.host.spool.forget(box_id)

    # -- files and ports

    async def read_file(self, box_id: str, path: str, *, user: str | None = None) -> FileReader:
        await self._enter("read_file")
        box = self._live(box_id, "read a file of")
        return files.open_file(box.tree, path, user or box.spec.user.name)

    async def write_file(
        self, box_id: str, path: str, chunks: AsyncIterator[bytes], *, user: str | None = None, mode: int | None = None
    ) -> int:
        await self._enter("write_file")
        box = self._live(box_id, "write a file of")
        return await files.write_file(box.tree, path, chunks, user or box.spec.user.name, mode)

    async def list_files(self, box_id: str, path: str, *, user: str | None = None) -> list[FileInfo]:
        await self._enter("list_files")
        box = self._live(box_id, "list files of")
        return files.list_files(box.tree, path, user or box.spec.user.name)

    async def connect(self, box_id: str, port: int) -> ByteStream:
        await self._enter("connect")
        self._live(box_id, "connect to")
        message = f"cannot connect to port {port}: nothing listens there"
        if not 0 < port <= LAST_PORT:
            raise contract.PortClosed(message)
        try:
            return TcpStream(*await asyncio.open_connection("127.0.0.1", port))
        except ConnectionRefusedError as error:
            raise contract.PortClosed(message) from error

    # -- inside

    async def _enter(self, call: str) -> None:
        """What tests have planned for this call."""
        while self.host.waits(call):
            await self._clock.sleep(POLL_S)
        if (error := self.host.failure(call)) is not None:
            raise error

    def _mourn(self, box: Box) -> None:
        if self._loop is not None:
            # RuntimeError: the loop has closed while its server was "killed"; the next `start` sees the dead box.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deaths.put_nowait, box)

    def _on_host(self, box_id: str, verb: str) -> FakeBox:
        if box_id not in self.host.boxes:
            message = f"cannot {verb} box {box_id!r}: there is none of this id"
            raise contract.BoxGone(message)
        return self.host.boxes[box_id]

    def _live(self, box_id: str, verb: str) -> FakeBox:
        box = self._on_host(box_id, verb)
        if box.reason is not None:
            message = f"cannot {verb} box {box_id!r}: it is dead ({box.reason})"
            raise contract.BoxGone(message)
        return box

    def _execution(self, box_id: str, exec_id: str) -> Execution | None:
        box = self.host.boxes.get(box_id)
        return box.executions.get(exec_id) if box is not None else None

    def _running(self, box_id: str, exec_id: str, verb: str) -> Execution:
        execution = self._live(box_id, f"{verb} a command in").executions.get(exec_id)
        if execution is None:
            raise _no_execution(exec_id, verb)
        if execution.ended:
            raise _ended(exec_id, verb)
        return execution

    def _progress(self, box_id: str, exec_id: str) -> Progress:
        # The result is read first: when it is there, the sizes do not change any more.
        result = self._result(box_id, exec_id)
        spool = self.host.spool
        return Progress(spool.size(box_id, exec_id, Stream.STDOUT), spool.size(box_id, exec_id, Stream.STDERR), result)

    def _result(self, box_id: str, exec_id: str) -> ExecResult | None:
        execution = self._execution(box_id, exec_id)
        if execution is None:
            self.host.spool.mark_lost(box_id, exec_id)
        return self.host.spool.result(box_id, exec_id)

    async def _pace(self, watch: Watch) -> None:
        """Let output gather for the contract's pace, but not the end of the command."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(watch.ended.wait(), PACE_S)

    async def _feed(self, execution: Execution, data: bytes) -> None:
        deadline = self._clock.monotonic() + STDIN_PATIENCE_S
        rest = memoryview(data)
        while rest:
            taken = execution.feed(bytes(rest[:65536]))
            if taken is None:
                self._live(execution.box, "write to a command in")
                raise _ended(execution.spec.id, "write to")
            rest = rest[taken:]
            if taken:
                deadline = self._clock.monotonic() + STDIN_PATIENCE_S
            elif self._clock.monotonic() > deadline:
                message = f"cannot write to execution {execution.spec.id!r}: it does not read its input"
                raise contract.BoxUnresponsive(message)
            else:
                await self._clock.sleep(POLL_S)


def _usage(box: FakeBox) -> Usage:
    pids = processes(box.token)
    memory = resident_bytes(pids)
    box.memory_peak = max(box.memory_peak, memory)
    return Usage(
        cpu_us=cpu_us(pids) + sum(execution.cpu_us for execution in box.executions.values()),
        memory=memory,
        cache=0,
        memory_peak=box.memory_peak,
        disk=disk_bytes(box.tree.root),
        pids=len(pids),
        oom_kills=0,
        limits=box.spec.limits,
    )


def _no_execution(exec_id: str, verb: str) -> contract.NoSuchExecution:
    return contract.NoSuchExecution(f"cannot {verb} execution {exec_id!r}: the box has none of this id")


def _ended(exec_id: str, verb: str) -> contract.ExecutionEnded:
    return contract.ExecutionEnded(f"cannot {verb} execution {exec_id!r}: it has ended, or does not take this")
