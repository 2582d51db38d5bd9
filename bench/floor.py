"""The raw floor: crun itself, started on the same root filesystem with the same limits and seccomp profile.

A box here has an overlay root, all namespaces (the network one empty) and `sleep` as process 1. It lacks what a
devbox has beyond that: a guest, an id range of its own, a way to the network, a disk limit, a record. Its bundle, its
state and its disk are in memory, so that the floor does not move with the filesystem of /tmp.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.measures import Adapter
from corral.runtime.contract import BoxSpec, Layer
from corral.runtime.linux import syscalls
from corral.runtime.oci import config

UNIFIED = Path("/sys/fs/cgroup/unified")
MEMORY = Path("/dev/shm")
IDS = [{"containerID": 0, "hostID": 0, "size": 65536}]


async def crun(state: Path, *argv: str) -> str:
    """Run crun with its output in a file, as `crun run -d` keeps the standard streams open. Raises RuntimeError."""
    with tempfile.TemporaryFile(dir=MEMORY) as out:
        command = ("crun", "--root", str(state), *argv)
        process = await asyncio.create_subprocess_exec(*command, stdin=out, stdout=out, stderr=out)
        code = await process.wait()
        out.seek(0)
        text = out.read().decode(errors="replace")
    if code:
        raise RuntimeError(f"cannot run crun {argv[0]}: {text[-500:]}")
    return text


class Floor(Adapter):
    """`crun run -d`, `crun exec`, `crun delete`. Between `start` and `close` this process is in a mount namespace of
    its own: a server that is started then would be in it too.
    """

    name = "crun"

    def __init__(self, rootfs: Path) -> None:
        self._rootfs = rootfs
        self._folder = Path(tempfile.mkdtemp(prefix="corral-floor-", dir=MEMORY))
        self._state = self._folder / "state"
        self._numbers = itertools.count()
        self._outside = -1

    async def start(self) -> None:
        """Leave the host's mounts; crun refuses hybrid cgroups, so the second hierarchy is not seen from here."""
        self._outside = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        if UNIFIED.is_mount():
            syscalls.umount2(str(UNIFIED))

    async def create(self) -> str:
        name = f"corral-floor-{os.getpid()}-{next(self._numbers)}"
        bundle = self._folder / name
        for part in ("upper", "work", "root"):
            (bundle / part).mkdir(parents=True)
        root = bundle / "root"
        options = f"lowerdir={self._rootfs},upperdir={bundle / 'upper'},workdir={bundle / 'work'}"
        syscalls.mount("overlay", str(root), "overlay", 0, options)
        (bundle / "config.json").write_text(json.dumps(self._config(name, root)))
        await crun(self._state, "run", "--detach", "--bundle", str(bundle), name)
        return name

    def _config(self, name: str, root: Path) -> Mapping[str, Any]:
        spec = BoxSpec(id=name, layers=(Layer("floor", self._rootfs),), hostname="floor")
        place = config.Place(root, "", "", 0, f"/{name}", 1, swap_limit=False)
        made = dict(config.bundle(spec, place, config.seccomp_profile()))
        made["process"] = {**made["process"], "args": ["sleep", "infinity"]}
        kinds = ("user", "network", "pid", "mount", "ipc", "uts", "cgroup")
        mapped = {"uidMappings": IDS, "gidMappings": IDS, "namespaces": [{"type": kind} for kind in kinds]}
        made["linux"] = {**made["linux"], **mapped}
        return made

    async def run(self, box: str, command: str) -> str:
        argv = ("exec", box, "bash", "-l", "-c", command)
        try:
            return await crun(self._state, *argv)
        except RuntimeError as error:
            # crun 1.8.1 failed so in 3 of 200 first commands on a busy machine, before it started them.
            if "fail startup" not in str(error):
                raise
            return await crun(self._state, *argv)

    async def destroy(self, box: str) -> None:
        await crun(self._state, "delete", "--force", box)
        syscalls.umount2(str(self._folder / box / "root"))
        shutil.rmtree(self._folder / box)

    async def close(self) -> None:
        here = Path.cwd()
        syscalls.setns(self._outside, syscalls.CLONE_NEWNS)
        os.chdir(here)  # entering a mount namespace moves to its root
        os.close(self._outside)
        shutil.rmtree(self._folder)
