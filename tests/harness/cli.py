"""The program `corral` as a process, pointed at one server."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pexpect

from tests.harness.server import CORRAL, Server

#: Seconds that one call may take.
LIMIT_S = 60.0


class Cli:
    """Runs `corral …` against `server`; every call returns what the process wrote and its exit code."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            **server.client_env,
        }
        self.folder = folder
        self.server = server

    def run(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = LIMIT_S,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run to the end. Without `stdin` its standard input is /dev/null."""
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        return subprocess.run(
            [CORRAL, *arguments],
            cwd=self.folder,
            env={**self.env, **(env or {})},
            capture_output=True,
            check=False,
            timeout=timeout,
            **given,
        )

    def out(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Run to the end, expect exit code 0, and return what it wrote to standard output."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, (arguments, done.returncode, done.stderr.decode())
        return done.stdout.decode()

    def json(self, *arguments: str) -> Any:
        """Run with --json and return the document that it wrote, and nothing but that."""
        verbs = 2 if arguments[0] in {"blueprint", "devbox"} else 1
        return json.loads(self.out(*arguments[:verbs], "--json", *arguments[verbs:]))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start without waiting; the caller ends it."""
        return subprocess.Popen(
            [CORRAL, *arguments],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def terminal(self, *arguments: str, rows: int = 24, cols: int = 80) -> pexpect.spawn[bytes]:
        """Start on a terminal of this size. The caller closes it."""
        return pexpect.spawn(
            str(CORRAL),
            list(arguments),
            cwd=str(self.folder),
            env=self.env,
            dimensions=(rows, cols),
            timeout=20,
        )
