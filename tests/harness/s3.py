"""An S3 server on the loopback: versitygw, a gateway to a folder, built from the Go module proxy once and kept.

Owns the process and its bucket. CORRAL_TEST_CACHE names the folder that holds the program; see `clients/install.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.harness.server import free_port

MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
BUILD_LIMIT_S = 600
BUCKET = "corral"


class NotBuildable(Exception):
    """There is no Go, or no way to the module proxy."""


@dataclass(frozen=True)
class S3Server:
    """`env` is what a Corral server needs to use its bucket; `folder` is where the bucket lies."""

    endpoint: str
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": "corral", "AWS_SECRET_ACCESS_KEY": "of-the-tests"}

    @property
    def settings(self) -> dict[str, str]:
        return {"CORRAL_OBJECTS": f"s3://{BUCKET}/some/prefix", "CORRAL_OBJECTS_ENDPOINT": self.endpoint, **self.env}


def program() -> Path:
    """The server's program, built if it is not there. Raises NotBuildable."""
    cache = Path(os.environ.get("CORRAL_TEST_CACHE") or Path.home() / ".cache" / "corral" / "clients")
    built = cache / f"versitygw-{MODULE.rpartition('@')[2]}" / "versitygw"
    if built.exists():
        return built
    if shutil.which("go") is None:
        raise NotBuildable("go is not installed")
    part = built.parent.with_name(f"{built.parent.name}-{os.getpid()}.part")
    env = {**os.environ, "GOBIN": str(part)}
    done = subprocess.run(["go", "install", MODULE], env=env, capture_output=True, text=True, timeout=BUILD_LIMIT_S)
    if done.returncode:
        raise NotBuildable(done.stderr[-2000:])
    built.parent.mkdir(parents=True, exist_ok=True)
    (part / "versitygw").rename(built)
    part.rmdir()
    return built


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[S3Server]:
    """Run it on `folder` with an empty bucket. Raises NotBuildable."""
    port = free_port()
    one = S3Server(f"http://127.0.0.1:{port}", folder)
    (folder / BUCKET).mkdir(parents=True)
    keys = {"ROOT_ACCESS_KEY_ID": one.env["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_ACCESS_KEY": "of-the-tests"}
    command = [str(program()), "--quiet", "--port", f"127.0.0.1:{port}", "posix", str(folder)]
    process = subprocess.Popen(command, env={**os.environ, **keys}, stdout=subprocess.DEVNULL)
    try:
        _await(port)
        yield one
    finally:
        process.terminate()
        process.wait(timeout=10)


def _await(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
