# Made from _async/devbox.py by sdk/tools/generate_sync.py: change that and run it again.
"""One devbox: its state, its commands, its files, its end."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from corral_sdk import _ids, _tar, errors
from corral_sdk._sync.content import Progress
from corral_sdk._sync.execution import HOLD_S, Execution, Output
from corral_sdk._sync.files import Files
from corral_sdk._sync.logs import LogFollower
from corral_sdk._sync.terminal import Terminal
from corral_sdk._sync.transport import Call, Transport
from corral_sdk.models import (
    ENDED,
    Consumption,
    DevboxInfo,
    ExecResult,
    ExecutionInfo,
    LogEntry,
    Relative,
    SnapshotInfo,
    SshKey,
    TerminalSize,
)

#: A snapshot takes as long as it takes to write out what the box has in memory.
SNAPSHOT_S = 600.0


class Devbox:
    """A handle on one devbox. `info` is what the server last said about it; `files` reads and writes single files."""

    def __init__(self, transport: Transport, info: DevboxInfo) -> None:
        self._transport = transport
        self.info = info
        self._path = f"/v1/devboxes/{info.id}"
        self.files = Files(transport, info.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"

    @property
    def id(self) -> str:
        """Its id, `dbx_…`."""
        return self.info.id

    @property
    def name(self) -> str | None:
        """The name that its maker gave it."""
        return self.info.name

    @property
    def status(self) -> str:
        """What the server last said: provisioning, initializing, running, suspending, suspended, failure, shutdown."""
        return self.info.status

    def refresh(self) -> DevboxInfo:
        """Ask the server how it stands."""
        self.info = DevboxInfo.from_wire(self._transport.json(Call("GET", self._path)))
        return self.info

    def wait(self, *statuses: str, timeout_s: float = 300) -> DevboxInfo:
        """Return when it is in one of `statuses` ("running" unless given).

        Raises Ended when it has ended in another one, TimedOut after `timeout_s` seconds.
        """
        wanted = frozenset(statuses or ("running",))
        deadline = time.monotonic() + timeout_s
        body = {"statuses": sorted(wanted | ENDED)}
        while self.info.status not in wanted:
            if self.info.has_ended:
                raise errors.Ended(f"cannot wait for devbox {self.id}: {describe_end(self.info)}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise errors.TimedOut(
                    f"cannot wait longer for devbox {self.id}: it is {self.status} after {timeout_s} s"
                )
            hold = min(HOLD_S, max(0.1, left))
            call = Call(
                "POST",
                f"{self._path}/wait_for_status",
                json=body | {"timeout_seconds": hold},
                timeout_s=hold + 10.0,
            )
            try:
                self.info = DevboxInfo.from_wire(self._transport.json(call))
            except errors.TimedOut:
                self.refresh()
        return self.info

    def shutdown(self) -> DevboxInfo:
        """End it, whatever state it is in. It and its disk are gone; its record and its logs stay."""
        self.info = DevboxInfo.from_wire(self._transport.json(Call("POST", f"{self._path}/shutdown", json={})))
        return self.info

    def suspend(self) -> DevboxInfo:
        """Give back its memory, processors and address, and keep its disk; `wait("suspended")` until that is done.

        What runs in it ends. Raises WrongState when it neither runs nor is suspended.
        """
        self.info = DevboxInfo.from_wire(self._transport.json(Call("POST", f"{self._path}/suspend", json={})))
        return self.info

    def resume(self) -> DevboxInfo:
        """Start it again with the disk that was kept; `wait` until it runs. Raises WrongState when not suspended."""
        self.info = DevboxInfo.from_wire(self._transport.json(Call("POST", f"{self._path}/resume", json={})))
        return self.info

    def snapshot(
        self, *, name: str | None = None, message: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> SnapshotInfo:
        """Copy its disk as it is at one moment, for devboxes to begin as; return when the copy is complete.

        It goes on running. Raises WrongState when it does not run, Exhausted.
        """
        body = {"name": name, "commit_message": message, "metadata": dict(metadata) if metadata else None}
        body = {key: value for key, value in body.items() if value is not None}
        call = Call("POST", f"{self._path}/snapshot_disk", json=body, timeout_s=SNAPSHOT_S)
        return SnapshotInfo.from_wire(self._transport.json(call))

    def fork(self, count: int = 1, *, name: str | None = None, keep_memory: str | None = None) -> list[Devbox]:
        """Make devboxes that begin as its disk is now; return at once: `wait` for those that are needed.

        They have its size and environment, and identities of their own. `keep_memory` says whether they go on with
        its processes, and with the secrets that these hold: never (the default); auto, where that can be, else the
        devbox's `memory_message` says why not; always, or else they fail. Raises WrongState.
        """
        given = {"count": count, "name": name, "keep_memory": keep_memory}
        body: dict[str, object] = {key: value for key, value in given.items() if value is not None}
        answer = self._transport.json(Call("POST", f"{self._path}/fork", json=body))
        return [Devbox(self._transport, DevboxInfo.from_wire(wire)) for wire in answer.get("devboxes") or ()]

    def lineage(self) -> list[Relative]:
        """Return the tree of devboxes that it is in, by whose disk each began as: parents before children."""
        answer = self._transport.json(Call("GET", f"{self._path}/lineage"))
        return [Relative.from_wire(wire) for wire in answer.get("devboxes") or ()]

    def keep_alive(self) -> None:
        """Start its idle time anew. Raises WrongState when it does not run."""
        self._transport.json(Call("POST", f"{self._path}/keep_alive", json={}))

    def consumption(self) -> Consumption:
        """Return what it uses now. Raises WrongState when it does not run."""
        answer = self._transport.json(Call("GET", f"{self._path}/usage"))
        now = answer.get("now")
        if not isinstance(now, dict):
            raise errors.WrongState(f"cannot see what devbox {self.id} uses: it is {answer.get('status')}")
        return Consumption.from_wire(now)

    # -- commands

    def exec(self, command: str, *, shell: str | None = None, timeout_s: float | None = None) -> ExecResult:
        """Run a command line with `bash -l` in the home folder and return its exit code and whole output.

        Commands of the same `shell` name share working folder and environment and run one after another. After
        `timeout_s` seconds TimedOut is raised; the command goes on.
        """
        command_id = _ids.command_id()
        hold = HOLD_S if timeout_s is None else max(0, min(HOLD_S, int(timeout_s)))
        started = time.monotonic()
        body: dict[str, object] = {"command": command, "command_id": command_id, "optimistic_timeout": hold}
        if shell is not None:
            body["shell_name"] = shell
        call = Call("POST", f"{self._path}/execute", json=body, timeout_s=hold + 30.0)
        execution = Execution(self._transport, ExecutionInfo.from_wire(self._transport.json(call)))
        left = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - started))
        return execution.result(left)

    def start(
        self,
        command: str,
        *,
        shell: str | None = None,
        stdin: bool = False,
    ) -> Execution:
        """Start a command line and return at once. With `stdin` its input stays open for `send_stdin`."""
        body: dict[str, object] = {"command": command, "attach_stdin": stdin}
        if shell is not None:
            body["shell_name"] = shell
        wire = self._transport.json(Call("POST", f"{self._path}/execute_async", json=body))
        return Execution(self._transport, ExecutionInfo.from_wire(wire))

    def exec_stream(self, command: str, *, shell: str | None = None) -> Output:
        """Run a command line and iterate over its output as it comes; see Output."""
        return Output(self, command, shell)

    def execution(self, execution_id: str) -> Execution:
        """Return a command that was started before. Raises NotFound."""
        wire = self._transport.json(Call("GET", f"{self._path}/executions/{execution_id}"))
        return Execution(self._transport, ExecutionInfo.from_wire(wire))

    def executions(self, *, page_size: int = 100) -> Iterator[ExecutionInfo]:
        """Yield the commands that were started in it, newest first."""
        call = Call("GET", f"{self._path}/executions", params={"limit": str(page_size)})
        for wire in self._transport.pages(call, "executions", "execution_id"):
            yield ExecutionInfo.from_wire(wire)

    def logs(self, *, execution_id: str | None = None) -> list[LogEntry]:
        """Return its log, oldest first; works after its end too."""
        params = {"execution_id": execution_id} if execution_id else {}
        answer = self._transport.json(Call("GET", f"{self._path}/logs", params=params))
        entries = answer.get("logs")
        if not isinstance(entries, list):
            raise errors.BadAnswer(f"cannot understand logs of devbox {self.id}: the answer has no list of them")
        return [LogEntry.from_wire(wire) for wire in entries]

    def follow_logs(self, *, execution_id: str | None = None, cursor: str | None = None) -> Iterator[LogEntry]:
        """Iterate over its log, from its begin or after the entry that had this `cursor`, until it has ended.

        With `execution_id` only the entries of that command come, until that has ended. A lost connection, or a server
        that was started again, goes on where it broke off. Raises NotFound, Unreachable.
        """
        return LogFollower(self._transport, self.id, execution_id=execution_id, cursor=cursor).read()

    # -- folders

    def upload(self, local: Path | str, remote: str, *, on_progress: Progress | None = None) -> None:
        """Copy a local file, or a folder with all that is in it, to the path `remote`.

        A folder becomes (or is merged into) the folder `remote`. It travels as one archive that is unpacked by the
        devbox's own `tar`, so for a moment it takes twice its room there.
        """
        local = Path(local)
        if not local.is_dir():
            self.files.write(remote, local, on_progress=on_progress)
            return
        archive = f"~/.corral-{secrets.token_hex(8)}.tar"

        def packed() -> Iterator[bytes]:
            for chunk in _tar.pack(local):
                yield chunk

        self.files.write(archive, packed, on_progress=on_progress)
        target, packed_path = _tar.shell_path(remote), _tar.shell_path(archive)
        self._run_tool(
            f"mkdir -p -- {target} && tar -xf {packed_path} --no-same-owner -C {target}; "
            f"code=$?; rm -f {packed_path}; exit $code",
            f"cannot copy folder {local} to {remote} of devbox {self.id}",
        )

    def download(self, remote: str, local: Path | str, *, on_progress: Progress | None = None) -> None:
        """Copy a file, or a folder with all that is in it, from the path `remote` to the path `local`.

        Raises NotFound, and Invalid when the archive of a folder would write outside `local`.
        """
        local = Path(local)
        kind = self.kind_of(remote)
        if kind is None:
            raise errors.NotFound(f"cannot copy {remote} of devbox {self.id}: no such file or folder")
        if kind == "file":
            self.files.fetch(remote, local, on_progress=on_progress)
            return
        archive = f"~/.corral-{secrets.token_hex(8)}.tar"
        packed, folder = _tar.shell_path(archive), _tar.shell_path(remote)
        failure = f"cannot copy folder {remote} of devbox {self.id}"
        try:
            # tar ends with 1 when a file grew while it was read, as logs do: it is in the archive as it was.
            self._run_tool(f"tar -cf {packed} -C {folder} . || [ $? -eq 1 ]", failure)
            with tempfile.TemporaryFile() as file:
                self.files.copy_to(archive, file, on_progress=on_progress)
                file.seek(0)
                local.mkdir(parents=True, exist_ok=True)
                _tar.unpack(file, local)
        finally:
            self._run_tool(f"rm -f {packed}", failure)

    def kind_of(self, remote: str) -> str | None:
        """Return "folder", "file" (anything else) or None for a path of the devbox."""
        path = _tar.shell_path(remote)
        result = self.exec(f"if [ -d {path} ]; then echo folder; elif [ -e {path} ]; then echo file; fi")
        kind = result.stdout.strip().splitlines()[-1:]  # a login shell's profile may print before
        return kind[0] if kind and kind[0] in {"folder", "file"} else None

    def _run_tool(self, command: str, failure: str) -> None:
        result = self.exec(command)
        if not result.ok:
            cause = result.stderr.strip() or f"exit code {result.exit_code}"
            raise errors.Invalid(f"{failure}: {cause}")

    # -- ways in

    def create_ssh_key(self) -> SshKey:
        """Make a key that lets in by SSH.

        Raises WrongState when it does not run, NotOffered when the server does not listen for SSH.
        """
        wire = self._transport.json(Call("POST", f"{self._path}/create_ssh_key", json={}))
        return SshKey.from_wire(wire, host=urlsplit(self._transport.base_url).hostname or "")

    def terminal(
        self,
        command: str | None = None,
        *,
        size: TerminalSize | None = None,
        attach_to: str | None = None,
        session: str | None = None,
        read_only: bool = False,
    ) -> Terminal:
        """Return a terminal of a login shell, `command`, the execution `attach_to` or a session; see Terminal."""
        size = size or TerminalSize()
        return Terminal(self._transport, self.id, command, size, attach_to, session=session, read_only=read_only)


def describe_end(info: DevboxInfo) -> str:
    """Say in half a sentence how a devbox ended."""
    why = ": ".join(part for part in (info.reason.replace("_", " "), info.message) if part)
    return f"it ended in {info.status}{f' ({why})' if why else ''}"
