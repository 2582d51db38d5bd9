"""Commands in boxes: what to run, how far it is, how it ended."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from corral.runtime.contract.boxes import MIB


class Stream(enum.StrEnum):
    """An output stream of an execution. A terminal writes everything to STDOUT."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Size of a pseudo-terminal in character cells."""

    rows: int = 24
    cols: int = 80


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """A command to run. `id` names it in the box and in the spool; the same id starts at most once.

    `argv[0]` is looked up in PATH. `env` is added to the box's. `cwd` None is the user's home. `user` None is the
    box's. `stdin` keeps a pipe open for `write_stdin`; without it standard input is /dev/null. `terminal` runs it on a
    pseudo-terminal. `output_limit` bounds each stream in the spool, in bytes: what is over it is dropped and the
    result says so. `hold` has each stream wait in its pipe until somebody is attached to it, so that whoever is sees
    all of it however much that is; a hold ends with the server that asked for it.

    The execution ends when its process ends. Children that it leaves behind go on running; what they write to its
    streams after that is read and dropped.
    """

    id: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    user: str | None = None
    stdin: bool = False
    terminal: TerminalSize | None = None
    output_limit: int = 64 * MIB
    hold: bool = False


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How an execution ended. Killed by signal N: `exit_code` is 128 + N and `signal` is N.

    `lost` means that the box ended first: the exit code is then 137 and nobody saw the command end.
    """

    exit_code: int
    signal: int | None = None
    stdout_cut: bool = False
    stderr_cut: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """The spool of an execution has grown to at least these sizes, in bytes; `result` once it has ended."""

    stdout: int
    stderr: int
    result: ExecResult | None = None
