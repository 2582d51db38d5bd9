"""Docker under test, where a daemon answers: the same root filesystem, by its command line."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from bench.measures import Adapter

IMAGE = "corral-bench:latest"


async def command(*argv: str) -> str:
    """Run a program and return its output. Raises RuntimeError with its error output."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"cannot run {argv[0]} {argv[1]}: {err.decode(errors='replace')[-500:]}")
    return out.decode(errors="replace")


class Docker(Adapter):
    """`docker run` and `docker exec`, as a person or a script would."""

    name = "docker"

    @staticmethod
    async def available() -> bool:
        """Whether a daemon answers on this host."""
        if shutil.which("docker") is None:
            return False
        try:
            await command("docker", "info")
        except RuntimeError:
            return False
        return True

    async def start(self, rootfs: Path) -> None:
        """Import the root filesystem as an image."""
        tar = await asyncio.create_subprocess_shell(
            f"tar -C '{rootfs}' -c . | docker import - {IMAGE}", stdout=asyncio.subprocess.DEVNULL
        )
        if await tar.wait():
            raise RuntimeError("cannot import the image into docker")

    async def create(self) -> str:
        limits = ("--memory", "2g", "--cpus", "1", "--pids-limit", "4096")
        return (await command("docker", "run", "-d", "--init", *limits, IMAGE, "sleep", "infinity")).strip()

    async def run(self, box: str, script: str) -> str:
        return await command("docker", "exec", box, "bash", "-c", script)

    async def destroy(self, box: str) -> None:
        await command("docker", "rm", "-f", box)

    async def close(self) -> None:
        await command("docker", "rmi", "-f", IMAGE)
