"""Starting a command of the fake: its environment, its program, its pipes or terminal.

Owns every process start of the fake. Nothing is left of a start that fails. Must not watch what it started.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import shutil
import subprocess
import termios
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from corral.runtime.contract import BadCommand, BoxSpec, ExecSpec, FileProblem, HostExhausted, Stream
from corral.runtime.fake.execution import Execution
from corral.runtime.fake.files import Tree
from corral.runtime.spool import Spool, SpoolFds

#: Every process of a box carries its box's token in this variable, and is found by it.
MARK = "CORRAL_FAKE_BOX"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT}


def environment(box: BoxSpec, spec: ExecSpec, tree: Tree, token: str) -> dict[str, str]:
    """What the command sees; nothing of the server's own environment."""
    user = spec.user or box.user.name
    home = "/root" if user == "root" else box.user.home
    base = {
        "PATH": PATH,
        "HOME": str(tree.at(home)),
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "HOSTNAME": box.hostname,
    }
    if spec.terminal is not None:
        base["TERM"] = "xterm-256color"
    return {**base, **box.env, **spec.env, MARK: token}


def start(box: BoxSpec, spec: ExecSpec, tree: Tree, token: str, spool: Spool) -> Execution:
    """Start the command. Raises BadCommand, HostExhausted; then its id is free again."""
    env = environment(box, spec, tree, token)
    cwd = _directory(box, spec, tree)
    argv = [_program(spec, tree, env, cwd), *(tree.inside(argument) for argument in spec.argv[1:])]
    try:
        fds = spool.open(box.id, spec.id)
    except OSError as error:
        raise _host(spec, error) from error
    try:
        return _spawn(box.id, spec, argv, env, cwd, fds, spool)
    except BaseException as error:
        fds.close()
        spool.discard(box.id, spec.id)
        if isinstance(error, ValueError):
            message = f"cannot start {spec.argv[0]!r}: {error}"
            raise BadCommand(message) from error
        if isinstance(error, OSError):
            raise _host(spec, error) from error
        raise


def _host(spec: ExecSpec, error: OSError) -> BadCommand | HostExhausted:
    message = f"cannot start {spec.argv[0]!r}: {error.strerror}"
    return HostExhausted(message) if error.errno in _EXHAUSTED else BadCommand(message)


def _directory(box: BoxSpec, spec: ExecSpec, tree: Tree) -> Path:
    user = spec.user or box.user.name
    if user not in (box.user.name, "root"):
        message = f"cannot start a command: no user {user!r}"
        raise BadCommand(message)
    try:
        path = tree.at(tree.absolute(spec.cwd or "~", "enter", user))
    except FileProblem as problem:
        raise BadCommand(problem.message) from problem
    if not path.is_dir():
        message = f"cannot start a command in {spec.cwd!r}: no such directory"
        raise BadCommand(message)
    return path


def _program(spec: ExecSpec, tree: Tree, env: Mapping[str, str], cwd: Path) -> str:
    """The program's path on the host; a path that is in the box's tree means the one there."""
    if not spec.argv or not spec.argv[0]:
        message = "cannot start a command: it is empty"
        raise BadCommand(message)
    name = spec.argv[0]
    if "/" in name:
        inside = tree.at(name) if name.startswith("/") else cwd / name
        found = shutil.which(inside) or shutil.which(name)
    else:
        found = shutil.which(name, path=env["PATH"])
    if found is None:
        message = f"cannot start {name!r}: no such program"
        raise BadCommand(message)
    return found


def _spawn(
    box: str, spec: ExecSpec, argv: list[str], env: Mapping[str, str], cwd: Path, fds: SpoolFds, spool: Spool
) -> Execution:
    with ExitStack() as on_failure, ExitStack() as child_ends:
        outputs: dict[Stream, int] = {}
        stdin: int | None
        if spec.terminal is not None:
            master, slave = pty.openpty()
            on_failure.callback(os.close, master)
            child_ends.callback(os.close, slave)
            termios.tcsetwinsize(slave, (spec.terminal.rows, spec.terminal.cols))
            outputs[Stream.STDOUT], stdin = master, master
            child = (slave, slave, slave)
            # setsid execs in place when it does not lead a group, so the pid is the command's and leads its session.
            argv = ["setsid", "--ctty", *argv]
        else:
            stdin, child = _pipes(spec, outputs, on_failure, child_ends)
        process = subprocess.Popen(
            argv,
            stdin=child[0],
            stdout=child[1],
            stderr=child[2],
            env=dict(env),
            cwd=cwd,
            start_new_session=spec.terminal is None,
        )
        for fd in {*outputs.values(), *([] if stdin is None else [stdin])}:
            _set_nonblocking(fd)
        execution = Execution(box=box, spec=spec, process=process, fds=fds, spool=spool, outputs=outputs, stdin=stdin)
        on_failure.pop_all()
        return execution


def _pipes(
    spec: ExecSpec, outputs: dict[Stream, int], on_failure: ExitStack, child_ends: ExitStack
) -> tuple[int | None, tuple[int, int, int]]:
    """Make the pipes: our end of standard input (None without), and the child's three ends."""
    ends: list[int] = []
    for stream in (Stream.STDOUT, Stream.STDERR):
        read, write = os.pipe()
        on_failure.callback(os.close, read)
        child_ends.callback(os.close, write)
        outputs[stream] = read
        ends.append(write)
    if not spec.stdin:
        return None, (subprocess.DEVNULL, ends[0], ends[1])
    read, write = os.pipe()
    on_failure.callback(os.close, write)
    child_ends.callback(os.close, read)
    return write, (read, ends[0], ends[1])


def _set_nonblocking(fd: int) -> None:
    """Make reads and writes of `fd` return at once."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
