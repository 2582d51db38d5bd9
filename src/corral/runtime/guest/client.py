"""Every operation of corral-guest as a call with typed arguments and results.

Owns the requests and their time limits. Must not take a field out of an answer, which `answers` does, nor hold a
connection between calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final

from corral.runtime.contract import (
    BadCommand,
    ExecSpec,
    FileInfo,
    FileProblem,
    FileProblemKind,
    FileReader,
    PortClosed,
    Stream,
    TerminalSize,
    User,
)
from corral.runtime.guest import answers, faults, protocol
from corral.runtime.guest.calls import QUICK_S, Calls
from corral.runtime.guest.channel import limited
from corral.runtime.guest.fields import Fields
from corral.runtime.guest.follow import Following
from corral.runtime.guest.model import ExecutionState, Hello
from corral.runtime.guest.streams import Attached, GuestFile, PortStream

#: Starting a program reads it from disk; a box at its CPU limit takes long for that.
_START_S: Final = 30.0

#: A command that does not read its input for this long does not read it.
_STDIN_S: Final = 30.0

#: File calls wait for disks.
_FILE_S: Final = 60.0

_CONNECT_S: Final = 15.0


class GuestClient(Calls):
    """The guest that listens on `socket_path`. Cheap to make; safe for concurrent calls; keeps no state.

    Every call raises BoxGone when nobody listens there or the box ends during the call, BoxUnresponsive when the guest
    does not answer in time or answers nonsense, BoxExhausted when it has no room for the call, and HostExhausted when
    this process has none. `timeout_s` replaces a call's own limit.
    """

    # -- the guest itself

    async def hello(self, *, timeout_s: float = 5.0) -> Hello:
        """Ask whether the guest is there. Raises BoxUnresponsive when it speaks another protocol."""
        return answers.hello(await self._ask({"op": "hello"}, "greet the guest", timeout_s))

    async def claim(
        self,
        *,
        hostname: str | None = None,
        env: Mapping[str, str] | None = None,
        user: User | None = None,
        hosts: str | None = None,
        resolv_conf: str | None = None,
        used: bool = False,
        timeout_s: float = QUICK_S,
    ) -> None:
        """Give the box its identity; what is None stays as it is. Can be repeated.

        `env` replaces the base environment of later commands. `user` becomes the default user and is made, with its
        home, if missing. `hosts` and `resolv_conf` are the contents of the files in /etc. `used` is for a disk that
        has been a box's: what cannot be written there is left as it is.
        """
        request: dict[str, object] = {"op": "claim", "hostname": hostname, "hosts": hosts, "resolv_conf": resolv_conf}
        request["env"] = None if env is None else dict(env)
        request["used"] = used
        if user is not None:
            request["user"] = {"name": user.name, "uid": user.uid, "gid": user.gid, "home": user.home}
        await self._ask(request, "claim the box", timeout_s)

    async def park(self, *, timeout_s: float = QUICK_S) -> None:
        """Have it close all connections and stand by for a dump. Raises BoxExhausted while it works on a file call."""
        doing = "park the guest"
        channel, _ = await self._start({"op": "park"}, doing, (), timeout_s)
        try:
            async with limited(timeout_s, doing):
                # It has let go of this connection too, which a dump would find.
                if await channel.receive() is not None:
                    raise channel.nonsense("more after its answer")
        finally:
            await channel.close()

    async def wake(
        self, listener: int | None = None, *, renamed: Mapping[str, str] | None = None, timeout_s: float = QUICK_S
    ) -> None:
        """Have a parked guest go on, and listen on `listener` from then on. Harmless when it is not parked.

        `renamed` is for a copy of another box: the new ids of the executions that run, by those that they had.
        """
        fds = () if listener is None else (listener,)
        request = {"op": "wake"} if renamed is None else {"op": "wake", "renamed": dict(renamed)}
        channel, _ = await self._start(request, "wake the guest", fds, timeout_s)
        await channel.close()

    # -- executions

    async def execute(self, spec: ExecSpec, fds: tuple[int, int, int], *, timeout_s: float = _START_S) -> Following:
        """Start a command and return once it runs. The guest writes to `fds`: stdout, stderr and status files.

        They must be regular files open for writing, and may be closed after the call. An id that the guest knows is
        not started again: `known` is then set, and the descriptors are not used.
        Raises BadCommand, BoxExhausted.
        """
        doing = f"run {_shown(spec.argv[0] if spec.argv else '')}"
        request: dict[str, object] = {
            "op": "exec",
            "id": spec.id,
            "argv": list(spec.argv),
            "env": dict(spec.env),
            "cwd": spec.cwd,
            "user": spec.user,
            "stdin": spec.stdin,
            "limit": spec.output_limit,
            "hold": spec.hold,
        }
        if spec.terminal is not None:
            request["terminal"] = {"rows": spec.terminal.rows, "cols": spec.terminal.cols}
        if _unencodable(*spec.argv, *spec.env, *spec.env.values(), spec.cwd or "", spec.user or ""):
            raise BadCommand(f"cannot {doing}: {faults.COMMAND['bad-command']}")
        return await self._follow(request, doing, fds, timeout_s)

    async def wait(self, exec_id: str, *, timeout_s: float = QUICK_S) -> Following:
        """Follow an execution from where it is. Raises NoSuchExecution."""
        return await self._follow({"op": "wait", "id": exec_id}, f"follow {_shown(exec_id)}", (), timeout_s)

    async def executions(self, *, timeout_s: float = QUICK_S) -> list[ExecutionState]:
        """Return the executions that the guest remembers."""
        request, most = {"op": "executions"}, protocol.MAX_EXECUTIONS
        return await self._rows(request, "list executions", 4, most, timeout_s, lambda _, row: answers.execution(row))

    async def signal(
        self,
        exec_id: str,
        signal: int,
        *,
        group: bool = True,
        foreground: bool = False,
        timeout_s: float = QUICK_S,
    ) -> None:
        """Send a signal to the command's process group, to its process, or to the group that has its terminal.

        Raises NoSuchExecution, ExecutionEnded; ValueError for a number that is no signal.
        """
        if not 1 <= signal <= 64:
            raise ValueError(f"cannot signal {_shown(exec_id)}: {signal} is no signal")
        request = {"op": "signal", "id": exec_id, "signal": signal, "group": group, "foreground": foreground}
        await self._ask(request, f"signal {_shown(exec_id)}", timeout_s)

    async def write_stdin(
        self, exec_id: str, data: bytes, *, close: bool = False, timeout_s: float = _STDIN_S
    ) -> None:
        """Write all of `data` to the command's standard input; return when it is in its pipe or terminal.

        Raises NoSuchExecution, ExecutionEnded, BoxUnresponsive when the command did not read in time.
        """
        doing = f"write to {_shown(exec_id)}"
        async with limited(timeout_s, doing), self._channel(doing) as channel:
            await channel.request({"op": "stdin", "id": exec_id, "eof": close})
            await self._upload(channel, memoryview(data))
            await self._finish_upload(channel)

    async def resize(self, exec_id: str, size: TerminalSize, *, timeout_s: float = QUICK_S) -> None:
        """Set the size of the execution's terminal. Raises NoSuchExecution, ExecutionEnded."""
        request = {"op": "resize", "id": exec_id, "rows": size.rows, "cols": size.cols}
        await self._ask(request, f"resize {_shown(exec_id)}", timeout_s)

    async def attach(
        self, exec_id: str, *, stream: Stream | None = None, patient: bool = False, timeout_s: float = QUICK_S
    ) -> Attached:
        """Connect to the execution's terminal: up to 64 KiB of recent output, then live; or to one of its pipes.

        `passed` is how many bytes of the stream went to its file before. Raises NoSuchExecution, ExecutionEnded.
        """
        doing = f"attach to {_shown(exec_id)}"
        request: dict[str, object] = {"op": "attach", "id": exec_id, "patient": patient}
        request["stream"] = None if stream is None else stream.value
        channel, reply = await self._start(request, doing, (), timeout_s)
        try:
            return Attached(channel, answers.passed(Fields(reply, doing), stream, doing))
        except BaseException:
            await channel.close()
            raise

    # -- files

    async def read_file(
        self,
        path: str,
        *,
        user: str | None = None,
        offset: int = 0,
        limit: int | None = None,
        timeout_s: float = _FILE_S,
    ) -> FileReader:
        """Open a regular file and read it from `offset`, at most `limit` bytes. Raises FileProblem, BoxExhausted.

        `timeout_s` is for the opening, and again for each wait of the reader.
        """
        doing = f"read {_shown(path)}"
        request = _file_request("read", path, user, doing) | {"offset": offset, "limit": limit}
        channel, reply = await self._start(request, doing, (), timeout_s)
        try:
            return GuestFile(channel, answers.info(Fields(reply, doing)), limit, timeout_s)
        except BaseException:
            await channel.close()
            raise

    async def write_file(
        self,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        user: str | None = None,
        mode: int | None = None,
        timeout_s: float = _FILE_S,
    ) -> int:
        """Write a file whole and return its size. The old content stays until the new is complete.

        `timeout_s` is for the opening, for each chunk, and for the end. Raises FileProblem, BoxExhausted. An error of
        `chunks` goes through, and the file is as before.
        """
        doing = f"write {_shown(path)}"
        request = _file_request("write", path, user, doing) | {"mode": mode}
        async with self._channel(doing) as channel:
            async with limited(timeout_s, doing):
                await channel.request(request)
            async for chunk in chunks:
                async with limited(timeout_s, doing):
                    await self._upload(channel, memoryview(chunk).cast("B"))
            async with limited(timeout_s, doing):
                reply = await self._finish_upload(channel)
            return answers.written(Fields(reply, doing))

    async def list_files(self, path: str, *, user: str | None = None, timeout_s: float = _FILE_S) -> list[FileInfo]:
        """Return the entries of a directory by name, the first 10,000. Raises FileProblem, BoxExhausted.

        Bytes of a name that are not UTF-8 are shown as U+FFFD.
        """
        doing = f"list {_shown(path)}"
        request = _file_request("list", path, user, doing)
        return await self._rows(request, doing, 7, protocol.MAX_ENTRIES, timeout_s, answers.entry)

    async def stat(self, path: str, *, user: str | None = None, timeout_s: float = _FILE_S) -> FileInfo:
        """Return what `path` is, the last symlink followed. Raises FileProblem, BoxExhausted."""
        doing = f"look at {_shown(path)}"
        return answers.info(await self._ask(_file_request("stat", path, user, doing), doing, timeout_s))

    # -- ports

    async def connect(self, port: int, *, timeout_s: float = _CONNECT_S) -> PortStream:
        """Connect to a TCP port on the box's loopback. Raises PortClosed."""
        doing = f"connect to port {port}"
        if not 1 <= port <= 65535:
            raise PortClosed(f"cannot {doing}: there is no such port")
        return PortStream(await self._open({"op": "connect", "port": port}, doing, timeout_s))


def _file_request(op: str, path: str, user: str | None, doing: str) -> dict[str, object]:
    if not path or len(path) >= protocol.MAX_PATH or _unencodable(path):
        raise FileProblem(f"cannot {doing}: {faults.FILE['bad-path']}", kind=FileProblemKind.BAD_PATH)
    return {"op": op, "path": path, "user": user}


def _unencodable(*texts: str) -> bool:
    """Say whether a text has a NUL or a lone surrogate: no argument, variable or path may."""
    return any("\0" in text or (not text.isascii() and not _encodes(text)) for text in texts)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(text: str) -> str:
    """Text for an error message: quoted, without control characters, at most 80 characters."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
