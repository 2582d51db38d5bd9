"""Kill whoever changes the image store, at one step after another, and judge what is left.

`python -m tests.crash.store_victim FOLDER SEED COUNT`: one process for all of it, since each victim is a fork.
A step is whatever Python does to files or starts as a program; FOLDER/layout-1, -2 and layer.tar are what is taken in.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from corral.core import errors
from corral.core.clock import SystemClock
from corral.images import fsck, intake
from corral.images.archives.model import Limits, Task
from corral.images.collect import collect
from corral.images.service import Images
from corral.images.store import ImageStore

#: What the audit of Python calls the steps after which the world is another one.
STEPS = frozenset(
    ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.setxattr", "os.symlink", "open",
     "subprocess.Popen", "fcntl.flock", "tempfile.mkdtemp", "tempfile.mkstemp")
)  # fmt: skip


async def move(images: Images, archive: bytes) -> None:
    """A layer comes from elsewhere, and goes to another node."""

    async def pieces() -> AsyncIterator[bytes]:
        yield archive

    digest = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    await images.take_layer(digest, pieces())
    async with images.pack_layer(digest) as path:
        assert path.stat().st_size


async def pull(images: Images, layout: Path) -> None:
    """A build asks for an image, and again, and then none does."""
    store = images.store
    with store.working() as work:
        task = Task("cannot pull pulled:1", Limits())
        intake.take_layout(store, work, layout, "pulled:1", "pulled:1", "a test", SystemClock(), task, pulled=True)
    await images.obtain("pulled:1")
    store.renew("pulled:1", 0)
    collected = await images.collect(keep_s=3600)
    assert collected is not None
    assert collected.names == ("pulled:1",)


def life(root: Path, layout: Path) -> None:
    """All that happens to an image: in, named, used for a while, out, and its layers gone; and to a layer alone."""
    images = Images(root, root.parent / "data")
    asyncio.run(move(images, (root.parent / "layer.tar").read_bytes()))
    asyncio.run(images.import_layout(layout, "victim:1"))
    images.alias("other:1", "victim:1")
    images.resolve("other:1")
    images.remove("other:1")
    images.remove("victim:1")
    asyncio.run(pull(images, layout))
    images.leave([])
    assert collect(ImageStore(root), SystemClock()) is not None
    fsck.check(ImageStore(root), repair=True)


def fork(work: Callable[[], None], at: int = 0) -> tuple[int, int]:
    """Do it in a fork that dies at step `at`, if that is not 0: (wait status, steps that it took)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        count = 0

        def step(event: str, _: object) -> None:
            nonlocal count
            if event in STEPS:
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(step)
        code = 1
        try:
            work()
            code = 0
        finally:
            os.write(writing, str(count).encode())
            os._exit(code)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reading) as told:
        return status, int(told.read() or 0)


def judge(root: Path, base: str) -> list[str]:
    """What is wrong after a death: more than leftovers, or an image that was there before and is hurt."""
    store = ImageStore(root)
    found = fsck.check(store, repair=False).findings
    wrong = [f"{each.kind}: {each.path}: {each.cause}" for each in found if each.kind is not fsck.Kind.LEFTOVER]
    if Images(root).resolve("base").digest != base:
        wrong.append("the image that was there is another one")
    deadline = time.monotonic() + 5
    # A program that the victim had started dies with it, and may still be about to.
    while True:
        try:
            if fsck.check(store, repair=True).sound and fsck.check(store, repair=False).findings == ():
                return wrong
        except (errors.CorralError, OSError) as problem:
            last = repr(problem)
        else:
            last = "repaired, it is not sound"
        if time.monotonic() > deadline:
            return [*wrong, last]
        time.sleep(0.05)


def main(folder: Path, seed: int, count: int) -> None:
    root = folder / "images"
    base = asyncio.run(Images(root).import_layout(folder / "layout-1", "base")).digest
    status, steps = fork(lambda: life(root, folder / "layout-2"))
    assert status == 0, status
    picked = sorted(random.Random(seed).sample(range(1, steps + 1), min(count, steps)))
    wrong: dict[int, list[str]] = {}
    for at in picked:
        status, _ = fork(lambda: life(root, folder / "layout-2"), at)
        found = [] if os.WIFSIGNALED(status) else [f"it did not die, but ended with {status}"]
        found += judge(root, base)
        # Whatever was left, the same again works, and leaves what was there before.
        status, _ = fork(lambda: life(root, folder / "layout-2"))
        found += [] if status == 0 else ["the next one failed"]
        if found:
            wrong[at] = found
    layers = len(list((root / "layers").iterdir()))
    print(
        json.dumps(
            {"steps": steps, "picked": picked, "wrong": wrong, "layers": layers, "names": ImageStore(root).names()}
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
